"""StepConfig: what is refused with which words, and what is left to defaults."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from dbos import DBOS

from crewai_dbos import DefinitionError, StepConfig
from crewai_dbos._dbos_seam.decorated import step_options_of
from crewai_dbos._journal.config import (
    LLM_DEFAULT,
    check_tool_config,
    for_llm,
    for_tool,
    from_dbos_options,
)
from crewai_dbos._journal.retry import is_transient


def readable(value: object) -> str:
    """The same in every process of pytest-xdist: no address."""
    return re.sub(" at 0x[0-9a-f]+", "", str(value))


def never(error: BaseException) -> bool:
    return False


async def never_async(error: BaseException) -> bool:
    return False


def sync_tool() -> None: ...


async def async_tool() -> None: ...


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_attempts": 3}, "max_attempts has no effect without retries_allowed=True"),
        (
            {"interval_seconds": 1, "backoff_rate": 2, "should_retry": never},
            "interval_seconds, backoff_rate, should_retry has no effect without",
        ),
        ({"retries_allowed": True, "max_attempts": 0}, "max_attempts must be 1 or more: 0"),
        ({"retries_allowed": True, "max_attempts": -2}, "max_attempts must be 1 or more: -2"),
        ({"timeout_seconds": 0}, "timeout_seconds must be positive: 0"),
        ({"timeout_seconds": -1.5}, "timeout_seconds must be positive: -1.5"),
        ({"timeout_seconds": math.inf}, "timeout_seconds must be positive: inf"),
        ({"timeout_seconds": math.nan}, "timeout_seconds must be positive: nan"),
        ({"retries_allowed": True, "interval_seconds": -1}, "interval_seconds"),
        ({"retries_allowed": True, "interval_seconds": math.nan}, "interval_seconds"),
        ({"retries_allowed": True, "backoff_rate": -2}, "backoff_rate"),
        ({"retries_allowed": True, "backoff_rate": math.nan}, "backoff_rate"),
    ],
    ids=readable,
)
def test_options_that_can_not_mean_anything_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(DefinitionError, match=told):
        StepConfig(**options)


def test_options_are_given_by_name() -> None:
    with pytest.raises(TypeError):
        StepConfig(True)  # type: ignore[misc]


def test_without_retries_there_is_one_call() -> None:
    assert StepConfig().attempts == 1
    assert StepConfig(timeout_seconds=1).attempts == 1


def test_retries_without_a_number_are_three_calls() -> None:
    assert StepConfig(retries_allowed=True).attempts == 3
    assert StepConfig(retries_allowed=True, max_attempts=7).attempts == 7


@pytest.mark.parametrize(
    ("options", "waits"),
    [
        ({}, [1.0, 2.0, 4.0]),
        ({"interval_seconds": 0.5}, [0.5, 1.0, 2.0]),
        ({"interval_seconds": 0}, [0.0, 0.0, 0.0]),
        ({"interval_seconds": 2, "backoff_rate": 1}, [2.0, 2.0, 2.0]),
        ({"backoff_rate": 3}, [1.0, 3.0, 9.0]),
    ],
    ids=readable,
)
def test_the_waits_grow_by_the_backoff_rate(options: dict[str, Any], waits: list[float]) -> None:
    config = StepConfig(retries_allowed=True, **options)
    assert [config.wait_before(attempt) for attempt in (1, 2, 3)] == waits


def test_an_llm_is_retried_five_times_for_what_can_pass_unless_told_otherwise() -> None:
    default = for_llm(None)
    assert default is LLM_DEFAULT
    assert (default.attempts, default.should_retry) == (5, is_transient)
    assert for_llm(StepConfig()).attempts == 1
    kept = for_llm(StepConfig(retries_allowed=True, max_attempts=2, interval_seconds=0.5))
    assert (kept.attempts, kept.interval_seconds, kept.should_retry) == (2, 0.5, is_transient)
    assert for_llm(StepConfig(retries_allowed=True, should_retry=never)).should_retry is never


def test_an_undecorated_tool_is_recorded_if_the_config_names_it() -> None:
    config = StepConfig(retries_allowed=True)
    assert for_tool(None, "a") is None
    assert for_tool(config, "a") is config
    assert for_tool({"a": config, "b": None}, "a") is config
    assert for_tool({"a": config, "b": None}, "b") is None
    assert for_tool({"a": config}, "c") is None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"retries_allowed": True},
        {
            "retries_allowed": True,
            "max_attempts": 4,
            "interval_seconds": 0.1,
            "backoff_rate": 1.5,
            "should_retry": never,
        },
        {"max_attempts": 9, "interval_seconds": 7},
    ],
    ids=readable,
)
def test_a_decorated_tool_keeps_the_options_of_its_step(options: dict[str, Any]) -> None:
    @DBOS.step(name=f"kept {options}", **options)
    def tool() -> None: ...

    config = from_dbos_options(step_options_of(tool))
    retrying = options.get("retries_allowed", False)
    assert config.retries_allowed == retrying
    if retrying:
        assert config.attempts == options.get("max_attempts", 3)
        assert config.should_retry is options.get("should_retry")
        interval, rate = options.get("interval_seconds", 1.0), options.get("backoff_rate", 2.0)
        assert config.wait_before(3) == interval * rate**2
    else:
        assert config.attempts == 1


def test_a_decorated_async_tool_keeps_its_limits() -> None:
    @DBOS.step(name="kept limits", preemptible=True, timeout_seconds=2.5)
    async def tool() -> None: ...

    config = from_dbos_options(step_options_of(tool))
    assert (config.preemptible, config.timeout_seconds, config.attempts) == (True, 2.5, 1)


@pytest.mark.parametrize(
    "config", [StepConfig(timeout_seconds=1), StepConfig(preemptible=True)], ids=str
)
def test_a_sync_tool_can_not_be_interrupted(config: StepConfig) -> None:
    with pytest.raises(DefinitionError, match=r"Tool 'mail'.*need an async tool.*async def"):
        check_tool_config("mail", config, sync_tool)
    check_tool_config("mail", config, async_tool)


def test_a_sync_tool_can_not_ask_async_code_whether_to_retry() -> None:
    config = StepConfig(retries_allowed=True, should_retry=never_async)
    with pytest.raises(DefinitionError, match="Tool 'mail' is sync, so its should_retry must be"):
        check_tool_config("mail", config, sync_tool)
    check_tool_config("mail", config, async_tool)
    check_tool_config("mail", StepConfig(retries_allowed=True, should_retry=never), sync_tool)
