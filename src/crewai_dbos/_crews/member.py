"""An agent at work in a durable crew: each of its executions is a place of its own in the run."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from crewai import Agent, Task
from crewai.agents.tools_handler import ToolsHandler
from crewai.knowledge.knowledge import Knowledge

from crewai_dbos._agents.run_agent import RunAgent, make_durable
from crewai_dbos._classes import durable_class, overrides
from crewai_dbos._crewai_seam.agent import forget_agent_state, last_messages, original_text
from crewai_dbos._crewai_seam.llm import is_llm
from crewai_dbos._journal import run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._leases import RunVar
from crewai_dbos._objects.llm_request import restoring
from crewai_dbos._objects.options import AgentOptions
from crewai_dbos._objects.run_objects import RunObjects
from crewai_dbos._people import policy, spending
from crewai_dbos._people.policy import People
from crewai_dbos._runs import body
from crewai_dbos._setting import setting
from crewai_dbos._stored import names
from crewai_dbos._stored.budget import Budget
from crewai_dbos.agent import DBOSAgent

_MEMBER = "_crewai_dbos_member"

_working: RunVar[Agent | None] = RunVar("crewai_dbos_working", default=None)
_last_messages: RunVar[dict[int, list[Any]] | None] = RunVar(
    "crewai_dbos_last_messages", default=None
)


class _Membership:
    """What a member knows of its run.

    Attributes:
        name: Names its places in the run.
        objects: The copies of the run.
        people: Who is asked about what it does, if it says so itself.
        budget: How much each of its executions may cost, of a `DBOSAgent`.
        busy: Held while it works.
    """

    def __init__(
        self, name: str, objects: RunObjects, people: People | None, budget: Budget | None
    ) -> None:
        self.name = name
        self.objects = objects
        self.people = people
        self.budget = budget
        self.busy = threading.Lock()


def member_class(cls: type[Agent]) -> type[Agent]:
    """That of the members of runs, for agents of class `cls`."""
    return durable_class(_Member, cls)


def member_of_run(template: Agent, options: AgentOptions, objects: RunObjects) -> Agent:
    """A durable copy of `template` for the run of a crew.

    Args:
        template: The user's agent; of a `DBOSAgent`, the one that it wraps.
        options: How its calls are recorded.
        objects: The copies of the run.
    """
    cls, name, people, budget = type(template), _role(template), None, None
    if isinstance(template, DBOSAgent):
        cls, name = type(template.orig_agent), template.agent_name
        people, budget = template.definition.people, template.definition.budget
    member = copy.copy(template)
    forget_agent_state(member)
    member.__class__ = member_class(cls)
    member.__dict__[_MEMBER] = _Membership(names.agent(name), objects, people, budget)
    make_durable(member, options, objects)
    return member


def remembering() -> AbstractContextManager[Any]:
    """The block is the run of a crew; after it nothing is left of what its members were told."""
    return setting(_last_messages, None)


def is_member(agent: Any) -> bool:
    return isinstance(agent, _Member)


def _role(agent: Agent) -> str:
    """The role as the user wrote it, before inputs were filled in, on one line."""
    return " ".join(original_text(agent, "role").split())


@overrides(Agent)
class _Member(RunAgent):
    """Overrides of `Agent`."""

    def execute_task(self, task: Task, context: Any = None, tools: Any = None) -> Any:
        # crewAI tries a failed task again from inside.
        if _working.get() is self or run_scope.enclosing() is None:
            return super().execute_task(task, context, tools)
        if (output := _edited(self)) is not None:
            return output
        with _at_work(self) as worker:
            return worker.execute_task(task, context, tools)

    async def aexecute_task(self, task: Task, context: Any = None, tools: Any = None) -> Any:
        if _working.get() is self or run_scope.enclosing() is None:
            return await super().aexecute_task(task, context, tools)
        if (output := _edited(self)) is not None:
            return output
        with _at_work(self) as worker:
            return await worker.aexecute_task(task, context, tools)

    @property
    def last_messages(self) -> list[Any]:
        """Of the last execution here; another may go on beside it."""
        found = (_last_messages.get() or {}).get(id(self))
        return found if found is not None else super().last_messages

    def set_knowledge(self, crew_embedder: Any = None) -> None:
        """As crewAI's, except that the sources are not loaded for a query that is recorded."""
        if self.embedder is None and crew_embedder:
            self.embedder = crew_embedder
        if not self.knowledge_sources:
            return
        try:
            knowledge = Knowledge(
                sources=self.knowledge_sources,
                embedder=self.embedder,
                collection_name=self.role,
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"Invalid Knowledge Configuration: {error!s}") from error
        membership: _Membership = self.__dict__[_MEMBER]
        self.knowledge = membership.objects.knowledge(knowledge, loaded=False)


@contextmanager
def _at_work(member: Agent) -> Iterator[Agent]:
    """The agent that executes a task for `member`: itself, or a copy while it is busy elsewhere."""
    membership: _Membership = member.__dict__[_MEMBER]
    outer = run_scope.enclosing()
    assert outer is not None
    scope = outer.child(membership.name)
    alone = membership.busy.acquire(blocking=False)
    worker = member if alone else _second(member)
    for role, llm in _llms(worker):
        scope.restore_usage(role, restoring(llm))
    try:
        with (
            setting(_working, worker),
            scope.work("agent"),
            body.ending(scope),
            policy.holding(membership.people),
            policy.working_as(_role(member), " ".join(worker.role.split())),
            spending.counted(scope, membership.budget),
        ):
            yield worker
            scope.check_complete(background=False)
    finally:
        messages = {**(_last_messages.get() or {}), id(member): last_messages(worker)}
        _last_messages.set(messages)
        if alone:
            membership.busy.release()


def _edited(member: Agent) -> str | None:
    """The output that somebody has given, in a fork, to the task that `member` is to do here."""
    scope = run_scope.enclosing()
    if scope is None or not scope.is_recorded(names.EDITED):
        return None
    _last_messages.set({**(_last_messages.get() or {}), id(member): []})
    return str(scope.run(Call(names.EDITED, kind=names.EDITED), lambda: ""))


def _second(member: Agent) -> Agent:
    """A copy of `member` with an executor of its own: crewAI's does one thing at a time."""
    copied = copy.copy(member)
    forget_agent_state(copied)
    copied.agent_executor = None
    copied.tools_results = []
    handler = ToolsHandler()
    if member.tools_handler is not None:
        handler.cache = member.tools_handler.cache
    copied.tools_handler = handler
    return copied


def _llms(agent: Agent) -> Iterator[tuple[str, Any]]:
    planning = agent.planning_config
    llms = {
        names.LLM: agent.llm,
        names.FUNCTION_CALLING_LLM: agent.__dict__.get("function_calling_llm"),
        names.PLANNING_LLM: planning.llm if planning is not None else None,
    }
    for role, llm in llms.items():
        if is_llm(llm):
            yield role, llm
