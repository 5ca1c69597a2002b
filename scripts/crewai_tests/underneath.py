"""Has crewAI's `Agent`, `Crew` and `Flow` do their work as durable ones."""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crewai import Agent, Crew
from crewai.agents.agent_builder.base_agent_executor import BaseAgentExecutor
from crewai.crews.crew_output import CrewOutput
from crewai.flow.flow import Flow
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSAgent, DBOSCrew, DBOSFlow, StepConfig
from crewai_dbos._classes import is_made_here, replaced_methods
from crewai_dbos._crews.run_task import MODELS
from crewai_dbos._journal import run_scope

KICKOFFS = ("kickoff", "kickoff_async", "akickoff")
OF_AGENTS = (*KICKOFFS, "execute_task", "aexecute_task")
OF_CREWS = (
    *(*KICKOFFS, "replay"),
    *("kickoff_for_each", "kickoff_for_each_async", "akickoff_for_each"),
)
OF_FLOWS = (*KICKOFFS, "handle_turn", "stream_turn")
PLAIN = ("train", "test")
"""Methods of a `DBOSCrew` that work with an ordinary crew."""
_AT_ONCE = StepConfig(retries_allowed=True, max_attempts=5, interval_seconds=0.001)
_LLMS: Any = {"llm_step_config": _AT_ONCE, "function_calling_llm_step_config": _AT_ONCE}
"""As many attempts as by default, without the waits between them."""


@contextmanager
def launched(database: Path) -> Iterator[None]:
    """DBOS, with a database of its own."""
    url = f"sqlite:///{database}"
    DBOS(config={"name": "crewai-tests", "system_database_url": url, "log_level": "ERROR"})
    DBOS.launch()
    try:
        yield
    finally:
        DBOS.destroy()


def install() -> None:
    """Give the classes of crewAI methods that go through a durable object, in this process."""
    for cls, methods, durable in (
        (Agent, OF_AGENTS, _agent),
        (Crew, OF_CREWS, _crew),
        (Flow, OF_FLOWS, _flow),
    ):
        for method in methods:
            _replace(cls, method, durable)
    for method in PLAIN:
        _leave(Crew, method)


@dataclass
class Kickoff:
    """One call of a durable object in place of the original."""

    durable: Any
    result: Any = None


@contextmanager
def _agent(agent: Agent) -> Iterator[Kickoff]:
    """A run works on a copy: show on the original what a `DBOSAgent` shows."""
    # Without a `tool_step_config` an agent's tools are not recorded, as those of the others are.
    recorded = StepConfig()
    durable = DBOSAgent(
        agent_name=_name(agent), orig_agent=agent, tool_step_config=recorded, **_LLMS
    )
    try:
        yield Kickoff(durable)
    finally:
        agent._last_messages = durable.last_messages
        agent._tool_failures = durable.last_tool_failures


@contextmanager
def _crew(crew: Crew) -> Iterator[Kickoff]:
    """The same for a crew, and what came of each task, which is in the output."""
    durable = DBOSCrew(crew_name=_name(crew), orig_crew=crew, **_LLMS)
    kickoff = Kickoff(durable)
    try:
        yield kickoff
    finally:
        crew.usage_metrics = durable.usage_metrics
        crew.token_usage = durable.token_usage or crew.token_usage
        if isinstance(kickoff.result, CrewOutput):
            for task, output in zip(crew.tasks, kickoff.result.tasks_output, strict=False):
                # A task that was skipped has none.
                task.output = output if output.raw else None


@contextmanager
def _flow(flow: Flow[Any]) -> Iterator[Kickoff]:
    if id(flow) not in _flows:
        durable = DBOSFlow(flow_name=_name(flow), orig_flow=lambda: flow, **_LLMS)
        _flows[id(flow)] = flow, durable
    with _run_id(flow):
        try:
            yield Kickoff(_flows[id(flow)][1])
        finally:
            _used.add(flow.flow_id)


_flows: dict[int, tuple[Flow[Any], DBOSFlow]] = {}
"""By the id of a flow itself and its durable one, which knows the turns that it has taken."""


def _run_id(flow: Flow[Any]) -> AbstractContextManager[Any]:
    """Under what a kickoff is run: its state keeps its id, as that of the run, the first time."""
    name = flow.flow_id
    return SetWorkflowID(name) if name and name not in _used else nullcontext()


_used: set[str] = set()


@contextmanager
def _of_its_own_class(what: Any) -> Iterator[None]:
    """Have a class override what a test has replaced on the object, where it would be refused."""
    own = {name: what.__dict__.pop(name) for name in replaced_methods(what)}
    if not own:
        yield
        return
    cls = type(what)
    body = {name: _calling(function) for name, function in own.items()}
    if isinstance(what, Flow):
        # A class is a flow of the methods that are written in it.
        body["_flow_definition"] = cls.flow_definition()
    what.__class__ = type(cls.__name__, (cls,), {"__module__": cls.__module__, **body})
    try:
        yield
    finally:
        what.__class__ = cls
        what.__dict__.update(own)


def _calling(function: Callable[..., Any]) -> Any:
    return lambda self, *args, **kwargs: function(*args, **kwargs)


def _put_at_top_level(*given: Any) -> None:
    """Have other processes find an output model that a test makes, where it would be refused."""
    tasks = [task for each in given for task in getattr(each, "tasks", [each])]
    models = [*given, *(getattr(task, name, None) for task in tasks for name in MODELS)]
    for model in models:
        if isinstance(model, type) and "<locals>" in model.__qualname__:
            model.__qualname__ = f"{model.__name__}_{next(_numbers)}"
            setattr(sys.modules[model.__module__], model.__qualname__, model)


def _replace(
    cls: type, method: str, durable: Callable[[Any], AbstractContextManager[Kickoff]]
) -> None:
    original = getattr(cls, method)

    @functools.wraps(original)
    def performed(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_plain(self):
            return original(self, *args, **kwargs)
        _put_at_top_level(self, *args, *kwargs.values())
        with _of_its_own_class(self), durable(self) as kickoff:
            kickoff.result = getattr(kickoff.durable, method)(*args, **kwargs)
        return kickoff.result

    @functools.wraps(original)
    async def aperformed(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_plain(self):
            return await original(self, *args, **kwargs)
        _put_at_top_level(self, *args, *kwargs.values())
        with _of_its_own_class(self), durable(self) as kickoff:
            kickoff.result = await getattr(kickoff.durable, method)(*args, **kwargs)
        return kickoff.result

    _set(cls, method, aperformed if inspect.iscoroutinefunction(original) else performed)


def _leave(cls: type, method: str) -> None:
    original = getattr(cls, method)

    @functools.wraps(original)
    def performed(*args: Any, **kwargs: Any) -> Any:
        token = _in_plain_method.set(True)
        try:
            return original(*args, **kwargs)
        finally:
            _in_plain_method.reset(token)

    _set(cls, method, performed)


_in_plain_method: ContextVar[bool] = ContextVar("in_plain_method", default=False)


def _set(cls: type, method: str, function: Callable[..., Any]) -> None:
    """Set a method where it is defined: `cls` may have it from a base."""
    setattr(next(base for base in cls.__mro__ if method in vars(base)), method, function)


def _is_plain(what: Any) -> bool:
    """Whether `what` is durable already, is at work in a run, or is a flow of crewAI's own."""
    own = (DBOSAgent, DBOSCrew, DBOSFlow, BaseAgentExecutor)
    return (
        isinstance(what, own)
        or is_made_here(type(what))
        or type(what).__module__.startswith("crewai.memory.")
        or _in_plain_method.get()
        or run_scope.in_workflow()
    )


def _name(what: Any) -> str:
    return f"{type(what).__name__}-{next(_numbers)}"


_numbers = itertools.count(1)
