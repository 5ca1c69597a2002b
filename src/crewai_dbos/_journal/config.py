"""How one recorded call is run: retries, and how long it may take."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from dbos import StepOptions

from crewai_dbos._journal.retry import is_transient
from crewai_dbos.errors import DefinitionError

ShouldRetry = Callable[[BaseException], "bool | Awaitable[bool]"]


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """The options of a DBOS step, as `dbos.StepOptions` has them in 3.4.

    Attributes:
        retries_allowed: Whether a failed call is made again. The others below need it.
        max_attempts: Calls in all, the first one included. 3 if not given.
        interval_seconds: Wait before the second call. 1.0 if not given. A ``Retry-After`` of
            the server that is longer wins.
        backoff_rate: The wait grows by this factor each time. 2.0 if not given.
        should_retry: Says of an error whether it is worth another call. Without one, an LLM call
            is retried after rate limits, timeouts, lost connections and 5xx, a tool call after
            any error. May be async for async tools.
        preemptible: Cancelling the workflow interrupts the call instead of waiting for it.
        timeout_seconds: A call that takes longer fails with `DBOSStepTimeoutError`. A sync LLM
            call is left behind on its thread; a sync tool can't have one, because nothing could
            stop it from going on.

    Raises:
        DefinitionError: Options that contradict each other.

    Example::

        from crewai import Agent
        from crewai_dbos import DBOSAgent, StepConfig

        patient = StepConfig(retries_allowed=True, max_attempts=8, interval_seconds=2)
        agent = DBOSAgent(
            agent_name="patient",
            orig_agent=Agent(role="Clerk", goal="Answer", backstory="Old.", llm="gpt-4o-mini"),
            llm_step_config=patient,
            tool_step_config=StepConfig(),
        )
    """

    retries_allowed: bool = False
    max_attempts: int | None = None
    interval_seconds: float | None = None
    backoff_rate: float | None = None
    should_retry: ShouldRetry | None = None
    preemptible: bool = False
    timeout_seconds: float | None = None

    def __post_init__(self) -> None:
        retry_options = ("max_attempts", "interval_seconds", "backoff_rate", "should_retry")
        given = [name for name in retry_options if getattr(self, name) is not None]
        if given and not self.retries_allowed:
            raise DefinitionError(
                f"StepConfig: {', '.join(given)} has no effect without retries_allowed=True"
            )
        if self.max_attempts is not None and self.max_attempts < 1:
            raise DefinitionError(
                f"StepConfig: max_attempts must be 1 or more: {self.max_attempts}"
            )
        for name in ("interval_seconds", "backoff_rate"):
            number = getattr(self, name)
            if number is not None and not (number >= 0 and math.isfinite(number)):
                raise DefinitionError(f"StepConfig: {name} must be 0 or more: {number}")
        limit = self.timeout_seconds
        if limit is not None and not (limit > 0 and math.isfinite(limit)):
            raise DefinitionError(f"StepConfig: timeout_seconds must be positive: {limit}")

    @property
    def attempts(self) -> int:
        return (self.max_attempts or 3) if self.retries_allowed else 1

    @property
    def supervised(self) -> bool:
        """Whether DBOS has to watch the call while it runs, which it can only do to async code."""
        return self.preemptible or self.timeout_seconds is not None

    def wait_before(self, attempt: int) -> float:
        """Seconds that DBOS waits before call number `attempt` (the second call is 1)."""
        interval = 1.0 if self.interval_seconds is None else self.interval_seconds
        rate = 2.0 if self.backoff_rate is None else self.backoff_rate
        return float(interval * rate ** (attempt - 1))

    def step_options(self, name: str) -> StepOptions:
        """These options for `DBOS.run_step`, less what the journal applies itself.

        That is `should_retry`, because a failure for good is an entry and not a step's error, and
        `timeout_seconds`, for the same reason.
        """
        options: StepOptions = {
            "name": name,
            "retries_allowed": self.retries_allowed,
            "preemptible": self.preemptible,
        }
        if self.max_attempts is not None:
            options["max_attempts"] = self.max_attempts
        if self.interval_seconds is not None:
            options["interval_seconds"] = self.interval_seconds
        if self.backoff_rate is not None:
            options["backoff_rate"] = self.backoff_rate
        return options


PLAIN = StepConfig()

LLM_DEFAULT = StepConfig(
    retries_allowed=True,
    max_attempts=5,
    interval_seconds=1.0,
    backoff_rate=2.0,
    should_retry=is_transient,
)

ToolStepConfig = StepConfig | Mapping[str, "StepConfig | None"] | None


def for_llm(config: StepConfig | None) -> StepConfig:
    """`config` as an LLM call uses it: by default, only what can pass is tried again."""
    if config is None:
        return LLM_DEFAULT
    if config.retries_allowed and config.should_retry is None:
        return StepConfig(**{**vars(config), "should_retry": is_transient})
    return config


def for_tool(config: ToolStepConfig, tool_name: str) -> StepConfig | None:
    """The config for one undecorated tool, or None if it is not to be recorded."""
    if config is None or isinstance(config, StepConfig):
        return config
    return config.get(tool_name)


def from_dbos_options(options: Mapping[str, Any]) -> StepConfig:
    """The options with which a function was decorated ``@DBOS.step(...)``."""
    retrying = bool(options["retries_allowed"])
    return StepConfig(
        retries_allowed=retrying,
        max_attempts=cast(int, options["max_attempts"]) if retrying else None,
        interval_seconds=cast(float, options["interval_seconds"]) if retrying else None,
        backoff_rate=cast(float, options["backoff_rate"]) if retrying else None,
        should_retry=options["should_retry"] if retrying else None,
        preemptible=bool(options["preemptible"]),
        timeout_seconds=options["timeout_seconds"],
    )


def check_tool_config(name: str, config: StepConfig, function: Callable[..., Any]) -> None:
    """Refuse what DBOS can only do to async code.

    Raises:
        DefinitionError: `function` is sync and `config` asks to interrupt it.
    """
    if inspect.iscoroutinefunction(function):
        return
    if config.supervised:
        raise DefinitionError(
            f"Tool {name!r}: timeout_seconds and preemptible need an async tool, because a running "
            "sync function can't be stopped. Make it `async def`, or leave them out."
        )
    if inspect.iscoroutinefunction(config.should_retry):
        raise DefinitionError(f"Tool {name!r} is sync, so its should_retry must be sync too.")
