"""The crew of one run: a copy of the user's, each part of it durable.

crewAI leaves state on a crew, its agents and its tasks, so no run shares one with another.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from crewai import Agent, Crew, Task
from crewai.agents.agent_builder.base_agent import BaseAgent
from crewai.crews.utils import enable_agent_streaming
from crewai.tools.base_tool import BaseTool

from crewai_dbos._agents.run_agent import NoWaitOnReplay, durable_tools
from crewai_dbos._classes import durable_class, overrides
from crewai_dbos._crewai_seam import agent as agent_seam
from crewai_dbos._crewai_seam import crew as crew_seam
from crewai_dbos._crews.fingerprint import number_of
from crewai_dbos._crews.ids import Ids
from crewai_dbos._crews.member import is_member, member_of_run
from crewai_dbos._crews.run_task import task_of_run
from crewai_dbos._journal.scope import Scope, stable_id
from crewai_dbos._objects import callbacks
from crewai_dbos._objects.options import AgentOptions
from crewai_dbos._objects.run_objects import RunObjects
from crewai_dbos._runs.definition import CrewDefinition
from crewai_dbos._stored import names
from crewai_dbos.agent import DBOSAgent

_STAFF = "_crewai_dbos_hiring"


def crew_class(cls: type[Crew]) -> type[Crew]:
    """That of the crews of runs, for crews of class `cls`."""
    return durable_class(_RunCrew, cls)


def crew_of_run(definition: CrewDefinition, template: Crew, scope: Scope, ids: Ids) -> Crew:
    """A fresh durable crew for the run that `scope` is a place in.

    Args:
        definition: What it is a crew of.
        template: The user's crew, or a new one.
        ids: Of the crew and its tasks, as the run began with them.
    """
    scope.look_for_secrets(template)
    for agent in (*template.agents, template.manager_agent):
        if isinstance(agent, DBOSAgent):
            scope.keep_back(agent.definition.secrets, agent.definition.redact)
    staff = _Staff(definition, template, RunObjects(scope, shared_cache=True))
    objects, options = staff.objects, definition.options
    crew = copy.copy(template)
    crew_seam.forget_crew_state(crew)
    crew.__class__ = crew_class(type(template))
    fields = crew.__dict__
    fields[_STAFF] = staff
    fields["id"] = ids.crew or stable_id(scope, "crew")
    fields["agents"] = [staff.member(agent) for agent in template.agents]
    if template.manager_agent is not None:
        fields["manager_agent"] = staff.member(template.manager_agent)
    fields["tasks"] = staff.tasks(template.tasks, ids)
    _give_llms(fields, options, objects)
    _give_callbacks(fields)
    memory = crew_seam.memory_of(template)
    if memory:
        durable = objects.memory(memory, options.llm_step_config)
        crew_seam.set_memory(crew, durable)
        if template.memory is memory:
            fields["memory"] = durable
    if template.knowledge is not None:
        fields["knowledge"] = objects.knowledge(template.knowledge)
    crew_seam.set_cache(crew, objects.cache(crew_seam.cache_of(template)))
    limit = NoWaitOnReplay(crew_seam.rate_limit(crew))
    for original, member in staff.members():
        if agent_seam.rate_limit(original) is crew_seam.rate_limit(template):
            agent_seam.set_rate_limit(member, limit)
    if template.output_log_file:
        log = callbacks.recorded(crew_seam.logging_of(template), names.LOG)
        crew_seam.set_logging(crew, log)
    if template.stream:
        fields["stream"] = False
        enable_agent_streaming(crew.agents)
    return crew


def finish(crew: Crew) -> None:
    """Wait for what the crew still does in the background, and stop its clock."""
    crew_seam.rate_limit(crew).stop_rpm_counter()
    staff: _Staff = crew.__dict__[_STAFF]
    staff.objects.drain()


class _Staff:
    """The agents and tasks of a run's crew, one for each of the user's."""

    def __init__(self, definition: CrewDefinition, template: Crew, objects: RunObjects) -> None:
        self.objects = objects
        self._definition = definition
        self._members: dict[int, tuple[Any, Any]] = {}

    def options(self, agent: Any) -> AgentOptions:
        """How the calls of the user's `agent` are recorded."""
        own = agent.definition if isinstance(agent, DBOSAgent) else None
        return self._definition.options_of(agent, own)

    def member(self, agent: Any) -> Any:
        """The run's copy of the user's `agent`; an adapter to another library as it is."""
        if not isinstance(agent, Agent):
            return agent
        if id(agent) not in self._members:
            made = member_of_run(agent, self.options(agent), self.objects)
            self._members[id(agent)] = (agent, made)
        return self._members[id(agent)][1]

    def members(self) -> list[tuple[Agent, Agent]]:
        """Each agent of the user's with its copy."""
        return list(self._members.values())

    def tasks(self, tasks: list[Task], ids: Ids) -> list[Task]:
        """The run's copies of `tasks`, with the agents and the context of the run."""
        copies = [
            task_of_run(task, number, self.options(task.agent), self.objects, ids.of_task(number))
            for number, task in enumerate(tasks, 1)
        ]
        for number, task in enumerate(copies, 1):
            task.__dict__["agent"] = self.member(task.agent)
            if isinstance(task.context, list):
                found = [(number_of(each, tasks, number), each) for each in task.context]
                context = [copies[other - 1] if other else each for other, each in found]
                task.__dict__["context"] = context
        return copies


if TYPE_CHECKING:
    _Base = Crew
else:
    _Base = object


@overrides(Crew)
class _RunCrew(_Base):
    """Overrides of `Crew` for what crewAI makes during the run: the manager, tools, the output."""

    def _create_manager_agent(self) -> None:
        super()._create_manager_agent()
        manager = self.__dict__["manager_agent"]
        if not is_member(manager):
            staff: _Staff = self.__dict__[_STAFF]
            self.__dict__["manager_agent"] = staff.member(manager)

    def _create_crew_output(self, *args: Any) -> Any:
        # crewAI counts the tokens before it waits for the saves that spend them.
        crew_seam.drain_memory_writes(self)
        return super()._create_crew_output(*args)

    def _prepare_tools(self, agent: BaseAgent, *args: Any) -> list[BaseTool]:
        tools: list[BaseTool] = super()._prepare_tools(agent, *args)
        return durable_tools(agent, tools) if isinstance(agent, Agent) else tools


def _give_llms(fields: dict[str, Any], options: AgentOptions, objects: RunObjects) -> None:
    config = options.llm_step_config
    if fields["manager_llm"] is not None:
        fields["manager_llm"] = objects.llm(fields["manager_llm"], names.LLM, config)
    if fields["function_calling_llm"] is not None:
        fields["function_calling_llm"] = objects.llm(
            fields["function_calling_llm"],
            names.FUNCTION_CALLING_LLM,
            options.function_calling_llm_step_config,
        )
    if fields["planning"]:
        planner = fields["planning_llm"] or crew_seam.default_planner()
        fields["planning_llm"] = objects.llm(planner, names.PLANNER_LLM, config)


def _give_callbacks(fields: dict[str, Any]) -> None:
    if fields["step_callback"] is not None:
        fields["step_callback"] = callbacks.recorded(fields["step_callback"], names.STEP_CALLBACK)
    if fields["task_callback"] is not None:
        _share_task_callback(fields)
    for field, what in (
        ("before_kickoff_callbacks", names.BEFORE_KICKOFF),
        ("after_kickoff_callbacks", names.AFTER_KICKOFF),
    ):
        fields[field] = [
            callbacks.recorded(function, what, keep=True) for function in fields[field]
        ]


def _share_task_callback(fields: dict[str, Any]) -> None:
    """Record the crew's `task_callback`, and with it the callbacks of tasks that equal it.

    crewAI calls a function once that is both, and compares them for that.
    """
    function = fields["task_callback"]
    made = callbacks.recorded(function, names.CALLBACK, once=True)
    for task in fields["tasks"]:
        if callbacks.original(task.callback) == function:
            task.__dict__["callback"] = made
    fields["task_callback"] = made
