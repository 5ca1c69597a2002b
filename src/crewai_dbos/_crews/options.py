"""How the calls of a crew's agents are to be recorded, by their roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypedDict

from crewai import Crew

from crewai_dbos._journal.config import StepConfig, ToolStepConfig
from crewai_dbos._objects.options import AgentOptions, recording_others
from crewai_dbos._objects.tools import check_tools
from crewai_dbos._people.policy import People
from crewai_dbos.errors import DefinitionError


class AgentStepConfigs(TypedDict, total=False):
    """What `DBOSCrew` takes for one agent: the options of `DBOSAgent`, as far as they differ."""

    llm_step_config: StepConfig | None
    function_calling_llm_step_config: StepConfig | None
    tool_step_config: ToolStepConfig


def chosen_options(
    crew: Crew,
    options: AgentOptions,
    of_agents: Mapping[str, AgentStepConfigs],
    people: People | None = None,
) -> tuple[AgentOptions, dict[str, AgentOptions]]:
    """The options of all agents of `crew`, and by role those of single ones.

    Args:
        crew: The user's.
        options: What is given for all of them.
        of_agents: What is given for single ones, by role.
        people: Who approves tool calls.

    Raises:
        DefinitionError: Something given can't mean anything, as a role or a tool that is not there.
    """
    agents = _agents(crew)
    whole, of_role = _by_role(options, of_agents, [agent.role for agent in agents])
    others = [tool for task in crew.tasks for tool in task.tools or []]
    for chosen in (whole, *of_role.values()):
        check_tools(agents, chosen.tool_step_config, others, people)
    return whole, of_role


def _by_role(
    given: AgentOptions, for_role: Mapping[str, AgentStepConfigs], roles: Sequence[str]
) -> tuple[AgentOptions, dict[str, AgentOptions]]:
    """The options of a crew's agents, and of single ones by role.

    Args:
        given: What the crew was given.
        for_role: What single agents were given.
        roles: The roles that there are.

    Raises:
        DefinitionError: There is no such role or option.
    """
    common = recording_others(given)
    found = {}
    for role, options in for_role.items():
        if role not in roles:
            raise DefinitionError(
                f"agent_step_configs has {role!r}, but the roles of the crew are "
                f"{', '.join(map(repr, dict.fromkeys(roles)))}"
            )
        unknown = sorted(set(options) - {option.name for option in fields(AgentOptions)})
        if unknown:
            raise DefinitionError(f"agent_step_configs of {role!r} has an unknown {unknown[0]!r}")
        found[role] = recording_others(replace(common, **options))
    return common, found


def _agents(crew: Crew) -> list[Any]:
    """The agents of `crew` that crewAI itself runs, the manager and those of tasks included."""
    everyone = [*crew.agents, crew.manager_agent, *(task.agent for task in crew.tasks)]
    found = {id(agent): agent for agent in everyone if hasattr(agent, "execute_task")}
    return list(found.values())
