"""Attempts of a call: how many, which errors are worth one, how long to wait."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from crewai_dbos._journal.joining import joined
from crewai_dbos._journal.retry import is_transient
from journal.helpers import QUICK, acall, call, failing, only_sqlite, work
from support.runs import entries, finish, replay, run_id


@only_sqlite
@pytest.mark.parametrize("failures", [0, 1, 2])
def test_retries_are_one_entry(dbos: None, failures: int) -> None:
    attempt = failing(failures)

    def plan() -> Any:
        with joined("work") as scope:
            return call(scope, "a", attempt, config=QUICK)

    run = run_id()
    assert finish(plan, run) == "done"
    assert work.done == {"a": failures + 1}
    assert entries(run) == ["work#1/a#1"]
    assert replay(run) == "done"
    assert work.done == {"a": failures + 1}


@only_sqlite
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_failure_for_good_is_an_entry_with_the_last_error(dbos: None, asynchronous: bool) -> None:
    numbers = itertools.count(1)

    def fails() -> Any:
        raise KeyError(f"attempt {next(numbers)}")

    async def afails() -> Any:
        fails()

    def plan() -> Any:
        with joined("work") as scope:
            try:
                if asynchronous:
                    return asyncio.run(acall(scope, "a", afails, config=QUICK))
                return call(scope, "a", fails, config=QUICK)
            except KeyError as error:
                return error.args[0]

    run = run_id()
    assert finish(plan, run) == "attempt 3"
    assert entries(run) == ["work#1/a#1"]
    assert replay(run) == "attempt 3"
    assert work.done == {"a": 3}


@only_sqlite
def test_only_what_is_worth_it_is_tried_again(dbos: None) -> None:
    async def later(error: BaseException) -> bool:
        await asyncio.sleep(0)
        return isinstance(error, KeyError)

    def now(error: BaseException) -> bool:
        return isinstance(error, KeyError)

    def plan() -> list[Any]:
        with joined("work") as scope:
            outcomes = []
            for should_retry in (now, later):
                config = dataclasses.replace(QUICK, should_retry=should_retry)
                for error in (KeyError("passes"), ValueError("stays")):
                    attempt = failing(1, error)

                    async def aattempt(attempt: Callable[[], str] = attempt) -> str:
                        return attempt()

                    name = f"{should_retry.__name__} {type(error).__name__}"
                    try:
                        if should_retry is later:
                            made = acall(scope, name, aattempt, config=config)
                            outcomes.append(asyncio.run(made))
                        else:
                            outcomes.append(call(scope, name, attempt, config=config))
                    except ValueError as raised:
                        outcomes.append(str(raised))
            return outcomes

    run = run_id()
    assert finish(plan, run) == ["done", "stays", "done", "stays"]
    assert work.done == {
        "now KeyError": 2, "now ValueError": 1, "later KeyError": 2, "later ValueError": 1,
    }  # fmt: skip
    assert replay(run) == ["done", "stays", "done", "stays"]


@only_sqlite
def test_async_code_can_decide_whether_a_sync_call_is_made_again(dbos: None) -> None:
    async def later(error: BaseException) -> bool:
        await asyncio.sleep(0)
        return isinstance(error, KeyError)

    config = dataclasses.replace(QUICK, should_retry=later)

    def plan() -> Any:
        with joined("work") as scope:
            made = call(scope, "passes", failing(1, KeyError("x")), config=config)
            with pytest.raises(ValueError, match="stays"):
                call(scope, "stays", failing(1, ValueError("stays")), config=config)
            return made

    assert finish(plan, run_id()) == "done"
    assert work.done == {"passes": 2, "stays": 1}


@only_sqlite
@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_server_is_waited_for_as_long_as_it_asks(dbos: None, asynchronous: bool) -> None:
    request = httpx.Request("POST", "http://x")
    response = httpx.Response(429, request=request, headers={"retry-after": "0.2"})
    attempt = failing(1, openai.RateLimitError("slow down", response=response, body=None))
    config = dataclasses.replace(QUICK, should_retry=is_transient)

    async def aattempt() -> str:
        return attempt()

    def plan() -> Any:
        with joined("work") as scope:
            if asynchronous:
                return asyncio.run(acall(scope, "a", aattempt, config=config))
            return call(scope, "a", attempt, config=config)

    run = run_id()
    before = time.monotonic()
    assert finish(plan, run) == "done"
    assert time.monotonic() - before >= 0.2
    assert work.done == {"a": 2}
