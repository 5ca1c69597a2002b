"""A call that takes too long or is interrupted."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from dbos import DBOS
from dbos._error import DBOSAwaitedWorkflowCancelledError, DBOSStepTimeoutError

from crewai_dbos import StepConfig
from crewai_dbos._journal import background
from crewai_dbos._journal.attempt import Attempt
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.execution import Execution, Moment
from crewai_dbos._journal.in_flight import InFlight
from crewai_dbos._journal.joining import joined
from crewai_dbos._journal.latch import Latch
from crewai_dbos._journal.open_calls import OpenCall
from journal.helpers import QUICK, acall, call, only_sqlite, work
from support.runs import begin, entries, finish, replay, result, run_id


async def never() -> None:
    await asyncio.get_running_loop().create_future()


@only_sqlite
def test_a_call_that_takes_too_long_is_recorded_as_that(dbos: None) -> None:
    config = StepConfig(timeout_seconds=0.05)

    def plan() -> Any:
        with joined("work") as scope:
            with pytest.raises(DBOSStepTimeoutError, match=r"work#1/a#1.*0\.05 seconds"):
                asyncio.run(acall(scope, "a", never, config=config))
            return call(scope, "b")

    run = run_id()
    assert finish(plan, run) == "b 1"
    assert replay(run) == "b 1"
    assert work.done == {"a": 1, "b": 1}


@only_sqlite
def test_every_attempt_has_the_whole_time(dbos: None) -> None:
    numbers = itertools.count(1)

    async def slow_at_first() -> str:
        if next(numbers) < 3:
            await never()
        return "in time"

    config = dataclasses.replace(QUICK, timeout_seconds=0.1)

    def plan() -> Any:
        with joined("work") as scope:
            return asyncio.run(acall(scope, "a", slow_at_first, config=config))

    run = run_id()
    assert finish(plan, run) == "in time"
    assert work.done == {"a": 3}


@only_sqlite
def test_a_sync_call_that_takes_too_long_is_left_behind(dbos: None) -> None:
    released = threading.Event()
    config = StepConfig(timeout_seconds=0.05)

    def plan() -> Any:
        with joined("work") as scope:
            with pytest.raises(DBOSStepTimeoutError):
                call(scope, "a", lambda: released.wait(30), config=config)
            return call(scope, "b")

    run = run_id()
    assert finish(plan, run) == "b 1"
    released.set()
    assert replay(run) == "b 1"
    assert work.done == {"a": 1, "b": 1}


@only_sqlite
def test_a_time_limit_does_not_take_credit_for_another_timeout(dbos: None) -> None:
    async def timed_out() -> Any:
        raise TimeoutError("the database did not answer")

    def plan() -> Any:
        with joined("work") as scope:
            with pytest.raises(TimeoutError, match="the database did not answer"):
                asyncio.run(acall(scope, "a", timed_out, config=StepConfig(timeout_seconds=30)))
            return call(scope, "b")

    assert finish(plan, run_id()) == "b 1"


def test_a_preemptible_call_is_interrupted_when_the_run_is_cancelled(dbos: None) -> None:
    started = threading.Event()

    async def hangs() -> None:
        started.set()
        await never()

    def plan() -> Any:
        with joined("work") as scope:
            return asyncio.run(acall(scope, "a", hangs, config=StepConfig(preemptible=True)))

    run = run_id()
    handle = begin(plan, run)
    assert started.wait(30)
    DBOS.cancel_workflow(run)
    with pytest.raises(DBOSAwaitedWorkflowCancelledError):
        result(handle)
    assert entries(run) == []


def test_a_time_limit_is_not_for_what_goes_on_in_the_background() -> None:
    """A tool that has returned in time has done its work, however long its saves take."""
    call = Call("tool:send", kind="tool", config=StepConfig(timeout_seconds=0.2))
    with ThreadPoolExecutor(1) as pool:

        async def send() -> str:
            background.begun(pool.submit(time.sleep, 0.5))
            return "sent"

        execution = Execution("run", None, Latch("run"))
        execution.goes_on(Moment.now())
        in_flight = InFlight(execution)
        body = Attempt(OpenCall("run", "tool:send#1"), call, (), in_flight).of_async(send)
        assert asyncio.run(body())["result"] == "sent"
