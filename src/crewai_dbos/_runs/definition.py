"""Definitions: what a `DBOSAgent`, `DBOSCrew` or `DBOSFlow` is made of, under a name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow

from crewai_dbos._classes import replaced_methods
from crewai_dbos._crewai_seam.agent import original_text
from crewai_dbos._events.event import Events
from crewai_dbos._objects.options import AgentOptions
from crewai_dbos._people.policy import People
from crewai_dbos._secrets import known
from crewai_dbos._secrets.given import NONE, Given
from crewai_dbos._stored.budget import Budget
from crewai_dbos._stored.redaction import Redact
from crewai_dbos._versions import warn_of_newer
from crewai_dbos.errors import DefinitionError

warn_of_newer()


@dataclass(frozen=True)
class AgentDefinition:
    """What a `DBOSAgent` is made of.

    Attributes:
        name: Stored with every run of it.
        source: The user's agent, or a callable that builds one.
        options: How its calls are recorded.
        owner: The `DBOSAgent` itself.
        secrets: Texts that must not be stored or logged, beside those that can be found.
        redact: What every text goes through that is stored of its runs.
        people: How they ask people; None for what holds around them.
        events: Whether they leave events, and those of the tokens of answers too.
        budget: How much each of them may cost.
    """

    name: str
    source: Agent | Callable[[], Agent]
    options: AgentOptions
    owner: Agent = field(repr=False)
    secrets: Given = NONE
    redact: Redact | None = None
    people: People | None = None
    events: Events = False
    budget: Budget | None = None

    def build(self) -> Agent:
        """The user's agent to copy, or a new one."""
        return build_agent(self.source)


@dataclass(frozen=True)
class CrewDefinition:
    """What a `DBOSCrew` is made of.

    Attributes:
        name: Stored with every run of it.
        source: The user's crew, a callable that builds one, or a ``@CrewBase`` class.
        options: How its agents' calls are recorded.
        of_role: The same for single agents, by their role.
        owner: The `DBOSCrew` itself.
        secrets: As of an `AgentDefinition`.
        redact: As of an `AgentDefinition`.
        people: As of an `AgentDefinition`.
        events: As of an `AgentDefinition`.
        budget: As of an `AgentDefinition`.
    """

    name: str
    source: Any
    options: AgentOptions
    of_role: dict[str, AgentOptions]
    owner: Crew = field(repr=False)
    secrets: Given = NONE
    redact: Redact | None = None
    people: People | None = None
    events: Events = False
    budget: Budget | None = None

    def options_of(self, agent: Any, own: AgentDefinition | None) -> AgentOptions:
        """How the calls of one of its agents are recorded.

        Args:
            agent: The user's agent.
            own: The definition of the agent, if it is a `DBOSAgent`.
        """
        role = original_text(agent, "role") or ""
        options = self.of_role.get(str(role), self.options)
        return options if own is None else options.under(own.options)

    def build(self) -> Crew:
        """The user's crew to copy, or a new one."""
        return build_crew(self.source)


@dataclass(frozen=True)
class FlowDefinition:
    """What a `DBOSFlow` is made of.

    Attributes:
        name: Stored with every run of it.
        source: The user's flow class, or a callable that builds a flow.
        options: How the calls of what its methods use are recorded.
        owner: The `DBOSFlow` itself.
        secrets: As of an `AgentDefinition`.
        redact: As of an `AgentDefinition`.
        people: As of an `AgentDefinition`.
        events: As of an `AgentDefinition`.
        budget: As of an `AgentDefinition`.
    """

    name: str
    source: Callable[[], Any]
    options: AgentOptions
    owner: Any = field(repr=False)
    secrets: Given = NONE
    redact: Redact | None = None
    people: People | None = None
    events: Events = False
    budget: Budget | None = None

    def build(self) -> Flow[Any]:
        """A new flow."""
        return build_flow(self.source)

    def shown(self, flow: Flow[Any], run_id: str) -> None:
        """Show on the `DBOSFlow` what can be read from `flow`, whose kickoff in a run has ended."""
        if flow is not self.owner:
            self.owner.show_as(flow, run_id)


def build_agent(source: Any) -> Agent:
    """The agent that `source` is or builds.

    Raises:
        DefinitionError: It neither is nor builds one.
    """
    agent = source if isinstance(source, Agent) else _made("orig_agent", source)
    if not isinstance(agent, Agent):
        raise DefinitionError(
            "orig_agent must be a crewai Agent or a callable that returns one, not "
            f"{_shown(source, agent)}"
        )
    _check_whole(f"agent {agent.role!r}", agent)
    return agent


def build_crew(source: Any) -> Crew:
    """The crew that `source` is or builds.

    Raises:
        DefinitionError: It neither is nor builds one.
    """
    crew = source if isinstance(source, Crew) else _made("orig_crew", source)
    # What a class decorated with @CrewBase makes has a method that makes the crew.
    if not isinstance(crew, Crew) and callable(getattr(crew, "crew", None)):
        crew = crew.crew()
    if not isinstance(crew, Crew):
        raise DefinitionError(
            "orig_crew must be a crewai Crew, a callable without arguments that returns one, or a "
            f"@CrewBase class, not {_shown(source, crew)}"
        )
    for what, part in parts_of(crew):
        _check_whole(what, part)
    return crew


def parts_of(crew: Crew) -> Iterator[tuple[str, Crew | Task | Agent]]:
    """What of `crew` a run of it copies, each once, and what that is called."""
    yield f"crew {crew.name or 'crew'!r}", crew
    for number, task in enumerate(crew.tasks, 1):
        yield f"task {number}", task
    agents = (*crew.agents, crew.manager_agent, *(task.agent for task in crew.tasks))
    for agent in {id(agent): agent for agent in agents}.values():
        if isinstance(agent, Agent):
            yield f"agent {agent.role!r}", agent


def build_flow(source: Any) -> Flow[Any]:
    """The flow that `source` builds.

    Raises:
        DefinitionError: It builds something else, or is a flow already.
    """
    if isinstance(source, Flow):
        raise DefinitionError(
            f"orig_flow must be the class {type(source).__name__} or a callable that builds one, "
            "not an instance: a flow keeps the state of its run, so every run needs a new one"
        )
    flow = _made("orig_flow", source)
    if not isinstance(flow, Flow):
        raise DefinitionError(
            f"orig_flow must be a crewai Flow class or a callable that returns a flow, not "
            f"{_shown(source, flow)}"
        )
    _check_whole(f"flow {flow.name or type(flow).__name__!r}", flow)
    return flow


def _made(option: str, source: Any) -> Any:
    """What `source` makes if it is a callable, or itself."""
    if not callable(source):
        return source
    try:
        return source()
    except TypeError as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            raise  # it was called, and it is an error of its own
        raise DefinitionError(
            f"{option} is called without arguments, and {known.shown(source)} needs some: "
            f"{error}. Give a callable that has them, as functools.partial(...)."
        ) from None


def _shown(source: Any, made: Any) -> str:
    if made is source:
        return known.shown(source)
    return f"{known.shown(source)}, which returned {known.shown(made)}"


def _check_whole(what: str, thing: Any) -> None:
    """Refuse an object that does not do what its class does.

    A run's copy would do it with the object that it was taken from, past everything that is
    recorded.
    """
    replaced = replaced_methods(thing)
    if not replaced:
        return
    if getattr(thing, "a2a", None) is not None:
        why = "as crewAI does for a2a: remote agents would be asked, and nothing recorded"
        fix = "Leave a2a out, and ask the remote agent in a tool"
    else:
        why = "where its calls would not be recorded"
        fix = "Derive a class that overrides it, and make the object of that"
    raise DefinitionError(
        f"{', '.join(replaced)} of {what} has been replaced on the object, {why}. {fix}."
    )
