"""What is private in crewAI's crews and tasks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

from crewai import Crew, Task
from crewai.agents.cache.cache_handler import CacheHandler
from crewai.project import annotations as project_annotations
from crewai.utilities.planning_handler import CrewPlanner
from crewai.utilities.rpm_controller import RPMController


class NoTaskOutputs:
    """In place of the SQLite file in the home directory that all crews of a user share."""

    def reset(self) -> None: ...

    def update(self, task_index: int, log: dict[str, Any]) -> None: ...

    def load(self) -> None:
        return None


def forget_crew_state(crew: Crew) -> None:
    """Give a shallow copy of a crew the private state of one that has not been kicked off."""
    private = dict(crew.__pydantic_private__ or {})
    object.__setattr__(crew, "__pydantic_private__", private)
    private.update(
        {
            "_rpm_controller": RPMController(max_rpm=crew.max_rpm, logger=crew._logger),
            "_task_output_handler": NoTaskOutputs(),
            "_inputs": None,
            "_kickoff_event_id": None,
            "_execution_start_dispatched": False,
            "_execution_end_dispatched": False,
        }
    )
    crew.__dict__.update(usage_metrics=None, token_usage=None, execution_logs=[])


def default_planner() -> str:
    """The model that plans a crew without a ``planning_llm``."""
    return str(CrewPlanner(tasks=[]).planning_agent_llm)


def memory_of(crew: Crew) -> Any:
    """The memory of `crew`; None if it has none."""
    return crew._memory


def set_memory(crew: Crew, memory: Any) -> None:
    """Have `crew` remember in `memory`."""
    crew._memory = memory


def drain_memory_writes(crew: Crew) -> None:
    """Wait for what `crew` and its agents still save in the background."""
    crew._drain_memory_writes()


def cache_of(crew: Crew) -> CacheHandler:
    """Where `crew` keeps results of tools."""
    return crew._cache_handler


def set_cache(crew: Crew, cache: CacheHandler) -> None:
    """Have `crew` keep results of tools in `cache`."""
    crew._cache_handler = cache


def rate_limit(crew: Crew) -> RPMController:
    """What limits the requests per minute of `crew`, and of agents without a limit of their own."""
    return crew._rpm_controller


def logging_of(crew: Crew) -> Callable[..., None]:
    """What `crew` tells its log file with. It has one if it has an ``output_log_file``."""
    return crew._file_handler.log


def set_logging(crew: Crew, log: Callable[..., None]) -> None:
    """Have `crew` call `log` in place of its log file."""
    crew._file_handler = cast(Any, SimpleNamespace(log=log))


def callback_behind(callback: Any) -> Any:
    """The method of a ``@CrewBase`` class that a kickoff callback of its crew calls.

    Any other callback is returned as it is.
    """
    if getattr(callback, "__module__", None) != project_annotations.__name__:
        return callback
    return inspect.getclosurevars(callback).nonlocals.get("hook", callback)


# Task --------------------------------------------------------------------------


def forget_task_state(task: Task) -> None:
    """Give a shallow copy of a task the state of one that has not been executed."""
    private = dict(task.__pydantic_private__ or {})
    object.__setattr__(task, "__pydantic_private__", private)
    private.update({"_guardrail_retry_counts": {}, "_thread": None})
    task.__dict__.update(
        output=None,
        used_tools=0,
        tools_errors=0,
        delegations=0,
        retry_count=0,
        processed_by_agents=set(),
        prompt_context=None,
        start_time=None,
        end_time=None,
    )


def guardrails_of(task: Task) -> list[Any]:
    """The guardrails that `task` calls."""
    own = [] if task._guardrail is None else [task._guardrail]
    return [*task._guardrails, *own]


def replace_guardrails(task: Task, replace: Callable[[Any], Any]) -> None:
    """Put `replace(guardrail)` in place of each guardrail that `task`, a copy, calls."""
    if task._guardrail is not None:
        task._guardrail = replace(task._guardrail)
    task._guardrails = [replace(guardrail) for guardrail in task._guardrails]


def forget_guardrails(task: Task) -> None:
    """Have `task`, a copy, call none."""
    task._guardrail, task._guardrails = None, []


def handing_signals_to_futures(execute: Callable[..., None]) -> Callable[..., None]:
    """`Task._execute_task_async`, which tells the crew what ended a task on a thread of its own.

    crewAI passes on an `Exception` only; after anything else the crew would wait for ever.
    """

    @functools.wraps(execute)
    def executed(task: Task, agent: Any, context: Any, tools: Any, future: Future[Any]) -> None:
        try:
            execute(task, agent, context, tools, future)
        except BaseException as signal:
            if not future.done():
                future.set_exception(signal)

    return executed
