"""What is inspected, read once."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from crewai import Agent, Crew, Task
from crewai.agents.agent_builder.base_agent import BaseAgent
from crewai.flow.flow import Flow

from crewai_dbos._classes import replaced_methods
from crewai_dbos._journal.config import StepConfig, ToolStepConfig
from crewai_dbos._runs.definition import AgentDefinition, CrewDefinition, parts_of
from crewai_dbos._runs.registry import Registry, agents, crews, flows
from crewai_dbos.doctor import _application, _flow, _flow_items, _items, _texts
from crewai_dbos.doctor._application import Application
from crewai_dbos.doctor._flow import FlowParts, is_flow
from crewai_dbos.doctor._report import Item
from crewai_dbos.doctor._texts import Text


@dataclass(frozen=True)
class Subject:
    """A definition and what belongs to it.

    Attributes:
        title: What it is, in words.
        items: Its parts.
        texts: What it stores or sends.
        plain: What is not durable, as half a sentence, and what to do about it.
        replaced: What has a method of its own in place of its class's, and that method.
        crew: Whether it is an ordinary crew.
        application: The DBOS application around it.
        flow: What a flow is made of, if it is one.
        factories: The functions that build the definition, and durable agents in it.
    """

    title: str
    items: tuple[Item, ...]
    texts: tuple[Text, ...]
    plain: tuple[tuple[str, str], ...]
    replaced: tuple[tuple[str, str], ...]
    crew: bool
    application: Application
    flow: FlowParts | None = None
    factories: tuple[Any, ...] = ()


def read(what: Any, module: ModuleType | None) -> Subject:
    """The subject that `what`, an agent, a crew or a flow, is.

    Raises:
        TypeError: It is something else.
    """
    if is_flow(what):
        return _of_flow(what, module)
    if isinstance(what, Crew):
        tasks = list(what.tasks)
        # A task may have an agent that the crew does not name.
        named = (*what.agents, what.manager_agent, *(task.agent for task in tasks))
        everyone = list({id(agent): agent for agent in named if agent is not None}.values())
        title = f"Crew {what.name!r}"
    elif isinstance(what, Agent):
        everyone = [what]
        tasks = list(_tasks_for(what, module))
        title = _title(what)
    else:
        raise TypeError(f"The doctor reads an agent, a crew or a flow, not {type(what).__name__}")
    definition = getattr(what, "_definition", None)
    crew = definition if isinstance(definition, CrewDefinition) else None
    if crew is not None:
        title = f"DBOSCrew {crew.name!r}"
    # Of a crew that has nothing durable yet, as a DBOSCrew around it would be.
    alone = isinstance(what, Crew) and crew is None and not any(map(_definition, everyone))
    if alone:
        title += ", not durable; what a DBOSCrew around it would record"
    whole = crew is not None or alone
    members = [agent for agent in everyone if isinstance(agent, Agent)]
    adapters = [agent for agent in everyone if not isinstance(agent, Agent)]
    items: list[Item] = []
    texts: list[Text] = []
    for agent in members:
        config = StepConfig() if alone else _tool_step_config(agent, crew)
        of_agent = _items.of_agent(agent, config, _called(agent))
        items += (replace(item, holder=agent) for item in of_agent)
        texts += _texts.of_agent(agent, _called(agent))
    for number, task in enumerate(tasks, 1):
        owner = f"task {task.name!r}" if task.name else f"task {number}"
        config = StepConfig() if alone else _tool_step_config(task.agent, crew)
        asks = whole or _definition(task.agent) is not None
        of_task = _items.of_task(task, owner, config, durable=whole, asks=asks)
        items += (replace(item, holder=task) for item in of_task)
        texts += _texts.of_task(task, owner, durable=whole)
    if isinstance(what, Crew):
        items += _items.of_crew(what, durable=whole)
        texts += _texts.of_crew(what)
    people = [each for each in (crew, *map(_definition, members)) if each is not None]
    for each in people:
        items += _items.of_people(each.people, f"{_noun(each)} {each.name!r}")
        items += _items.of_budget(each.budget, f"{_noun(each)} {each.name!r}")
    items += _items.of_process()
    return Subject(
        title=title,
        items=tuple(items),
        texts=tuple(texts),
        plain=(
            *([("the crew is no DBOSCrew", _wrapping_crew(what))] if alone else ()),
            *(
                (f"{_called(agent)} is no DBOSAgent", _wrapping(agent))
                for agent in members
                if not whole and not _definition(agent)
            ),
            *(
                (f"agent {agent.role.strip()!r} is no DBOSAgent", _replacing(agent))
                for agent in adapters
            ),
        ),
        replaced=tuple(_replaced(what)),
        crew=isinstance(what, Crew) and crew is None,
        application=_application.around(module),
        factories=_factories(crew, *map(_definition, members)),
    )


def _of_flow(what: Any, module: ModuleType | None) -> Subject:
    flow = _flow.read(what)
    people = None if flow.durable is None else flow.durable.people
    budget = None if flow.durable is None else flow.durable.budget
    items = (
        *_flow_items.of_flow(flow),
        *_items.of_people(people, _flow_items.FLOW),
        *_items.of_budget(budget, _flow_items.FLOW),
        *_items.of_process(),
    )
    plain = (f"flow {flow.name!r} is no DBOSFlow", _wrapping_flow(flow))
    return Subject(
        title=flow.title,
        items=items,
        texts=tuple(_texts.of_flow(flow)),
        plain=(plain,) if flow.durable is None else (),
        replaced=tuple((flow.title, name) for name in replaced_methods(what))
        if isinstance(what, Flow)
        else (),
        crew=False,
        application=_application.around(module),
        flow=flow,
        factories=_factories(flow.durable),
    )


def _noun(definition: AgentDefinition | CrewDefinition) -> str:
    return "agent" if isinstance(definition, AgentDefinition) else "crew"


def _factories(*definitions: Any) -> tuple[Any, ...]:
    sources = [definition.source for definition in definitions if definition is not None]
    return tuple(source for source in sources if inspect.isfunction(source))


def _wrapping_flow(flow: FlowParts) -> str:
    for name in flows.names():
        definition = flows.find(name)
        if definition is not None and definition.source is flow.cls:
            return f"Use the DBOSFlow {name!r}, which is around it."
    return (
        f"Wrap it: DBOSFlow(flow_name=..., orig_flow={flow.cls.__name__}). The table shows what "
        "that records."
    )


def _tasks_for(agent: Agent, module: ModuleType | None) -> Iterator[Task]:
    for value in vars(module).values() if module is not None else ():
        if isinstance(value, Task) and value.agent is agent:
            yield value


def _definition(agent: BaseAgent | None) -> AgentDefinition | None:
    found = getattr(agent, "_definition", None)
    return found if isinstance(found, AgentDefinition) else None


def _tool_step_config(agent: BaseAgent | None, crew: CrewDefinition | None) -> ToolStepConfig:
    """What becomes of tools without a decorator that `agent` works with, perhaps in a `DBOSCrew`.

    Args:
        agent: None for the manager that a crew makes itself.
    """
    definition = _definition(agent)
    if crew is not None:
        return crew.options_of(agent, definition).tool_step_config
    return None if definition is None else definition.options.tool_step_config


def _called(agent: Agent) -> str:
    definition = _definition(agent)
    return f"agent {definition.name if definition is not None else agent.role.strip()!r}"


def _replaced(what: Agent | Crew) -> Iterator[tuple[str, str]]:
    for called, part in parts_of(what) if isinstance(what, Crew) else [("the agent", what)]:
        if isinstance(part, Agent):
            called = _called(part)
        elif isinstance(part, Crew):
            called = "the crew"
        yield from ((called, method) for method in replaced_methods(part))


def _title(agent: Agent) -> str:
    definition = _definition(agent)
    if definition is not None:
        return f"DBOSAgent {definition.name!r}"
    return f"Agent {agent.role.strip()!r}, not durable; what a DBOSAgent around it would record"


def _around(registry: Registry[Any], what: Any) -> str | None:
    """That there is a durable object around `what`, if there is."""
    for name in registry.names():
        definition = registry.find(name)
        if definition is not None and definition.source is what:
            return f"Use the {registry.cls} {name!r}, which is around it."
    return None


def _wrapping(agent: Agent) -> str:
    return _around(agents, agent) or (
        "Wrap it: DBOSAgent(agent_name=..., orig_agent=agent). The table shows what that records."
    )


def _wrapping_crew(crew: Any) -> str:
    return _around(crews, crew) or (
        "Wrap it: DBOSCrew(crew_name=..., orig_crew=...), with the crew, the function that builds "
        "it or its @CrewBase class. The table shows what that records."
    )


def _replacing(agent: BaseAgent) -> str:
    """What to do about an adapter to the agents of another library."""
    return f"Use a DBOSAgent in its place: that can't wrap {type(agent).__name__}."
