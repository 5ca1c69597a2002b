"""How the calls of a crew's agents are to be recorded, by their roles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crewai import Crew

from crewai_dbos._journal.config import AgentOptions, AgentStepConfigs, options_of_crew
from crewai_dbos._objects.tools import check_tools
from crewai_dbos._people.policy import People


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
    whole, of_role = options_of_crew(options, of_agents, [agent.role for agent in agents])
    others = [tool for task in crew.tasks for tool in task.tools or []]
    for chosen in (whole, *of_role.values()):
        check_tools(agents, chosen.tool_step_config, others, people)
    return whole, of_role


def _agents(crew: Crew) -> list[Any]:
    """The agents of `crew` that crewAI itself runs, the manager and those of tasks included."""
    everyone = [*crew.agents, crew.manager_agent, *(task.agent for task in crew.tasks)]
    found = {id(agent): agent for agent in everyone if hasattr(agent, "execute_task")}
    return list(found.values())
