"""What a `DBOSAgent` was given after it was defined, mostly by the crew it is in.

A crew fills its inputs into an agent's texts, hands it its memory, knowledge and callbacks, and
counts its requests. A run that joins the workflow around the crew takes all of it. A workflow of
the agent's own is finished by a process that may have no crew: it takes what can be stored.

What is set inside a workflow is seen in that workflow only. Crews of several workflows may have the
same agent, and after a restart they all go on at once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from crewai import Agent, Crew

from crewai_dbos._crewai_seam.agent import RATE_LIMIT, set_rate_limit
from crewai_dbos._crewai_seam.crew import memory_of
from crewai_dbos._journal import run_scope
from crewai_dbos._journal.scope import Scope
from crewai_dbos._objects.knowledge import durable_knowledge
from crewai_dbos._objects.llm import DBOSLLM
from crewai_dbos.errors import UnstorableInputError, UnstorableValueError

TEXTS = ("role", "goal", "backstory")
KNOWLEDGE = "knowledge"

# What crewAI notes on an agent while it works.
_STATE = {
    "id",
    "agent_executor",
    "executor_class",
    "cache_handler",
    "tools_handler",
    "tools_results",
    "agent_knowledge_context",
    "crew_knowledge_context",
    "knowledge_search_query",
    "execution_context",
    "checkpoint_kickoff_event_id",
    "i18n",
}


FIELDS = frozenset({*Agent.model_fields, RATE_LIMIT})
"""What can be given."""

_GIVEN = "_crewai_dbos_given"


def here(agent: Agent) -> dict[str, Any] | None:
    """What `agent` was given in the workflow that is open here; None outside of workflows."""
    if not run_scope.in_workflow():
        return None
    scope = run_scope.enclosing()
    if scope is None:
        return None
    agents = scope.kept.setdefault(_GIVEN, {})
    # The agent itself is kept beside what it was given, so that its id stays its own.
    given: dict[str, Any] = agents.setdefault(id(agent), (agent, {}))[1]
    return given


def snapshot(agent: Agent) -> dict[str, Any]:
    """What `agent` is made of now."""
    # Not by getattr: some fields are deprecated and say so when they are read.
    made_of = {**(agent.__pydantic_private__ or {}), **agent.__dict__, **(here(agent) or {})}
    return {name: made_of.get(name) for name in FIELDS - _STATE}


def since(before: Mapping[str, Any], agent: Agent) -> dict[str, Any]:
    """What has been set on `agent` since `before` was its snapshot."""
    now = snapshot(agent)
    return {
        name: value
        for name, value in now.items()
        if value is not before.get(name) and not (name in TEXTS and value == before.get(name))
    }


def stored(given: Mapping[str, Any], agent: Agent, name: str) -> dict[str, Any]:
    """What of `given` a workflow of the agent's own is stored with, as plain JSON.

    Raises:
        UnstorableInputError: There is something else in it.
    """
    kept: dict[str, Any] = {text: given[text] for text in TEXTS if text in given}
    lost = [field for field in given if field not in (*TEXTS, KNOWLEDGE, "crew")]
    crew = given.get("crew")
    if isinstance(crew, Crew):
        held = {"memory": memory_of(crew), "knowledge": crew.knowledge}
        # `Agent.message` makes a crew with the agent's own memory.
        own = agent.memory
        lost += [f"crew.{what}" for what, value in held.items() if value and value is not own]
    if KNOWLEDGE in given:
        if not agent.knowledge_sources:
            lost.append(KNOWLEDGE)
        kept[KNOWLEDGE] = True
    if lost:
        what = ", ".join(field.lstrip("_") for field in lost)
        raise UnstorableInputError(
            f"DBOSAgent {name!r} was given {what} after it was defined, so a fresh process would "
            "not find it. Call the crew inside a @DBOS.workflow(), which gives it again, or set "
            "it on the agent that is wrapped."
        )
    return kept


def loaded(kept: Mapping[str, Any], owner: Agent) -> dict[str, Any]:
    """What `stored` kept, as live objects.

    Raises:
        UnstorableValueError: `stored` does not keep that.
    """
    given = dict(kept)
    for name, value in given.items():
        if not (name in TEXTS and isinstance(value, str)) and not (
            name == KNOWLEDGE and value is True
        ):
            raise UnstorableValueError(f"An agent is not given {name!r} by an order")
    if given.pop(KNOWLEDGE, False):
        if owner.knowledge is None:
            owner.set_knowledge()
        given[KNOWLEDGE] = owner.knowledge
    return given


def give(given: Mapping[str, Any], agent: Agent, scope: Scope) -> None:
    """Set `given` on `agent`, a copy for the run that `scope` is a place in."""
    fields = dict(given)
    if RATE_LIMIT in fields:
        set_rate_limit(agent, fields.pop(RATE_LIMIT))
    agent.__dict__.update(fields)
    crew = agent.crew
    if not isinstance(crew, Crew):
        return
    _warn_of_others(crew)
    if not agent.memory and memory_of(crew):
        agent.memory = memory_of(crew)
    knowledge = crew.knowledge
    if knowledge is not None:
        agent.crew = copy.copy(crew)
        agent.crew.knowledge = durable_knowledge(knowledge, scope)


def _warn_of_others(crew: Crew) -> None:
    """Say what else asks a model in this crew and is not recorded."""
    members = [*crew.agents, *filter(None, [crew.manager_agent])]
    plain = [f"the agent {each.role!r}" for each in members if not hasattr(each, "invoke_executor")]
    if crew.planning and not isinstance(crew.planning_llm, DBOSLLM):
        plain.append("its planner")
    if plain:
        run_scope.warn_once(
            f"In the crew of {', '.join(map(repr, (each.role for each in crew.agents)))} "
            f"{' and '.join(plain)} will be asked again after a crash. Wrap agents in DBOSAgent "
            "(a manager as manager_agent=), and the planner's model: planning_llm=DBOSLLM(...)."
        )
