"""A workflow that gives up on a call, or catches a failure of a part, takes the same way again."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from crewai import LLM, Agent, Task
from crewai.events import crewai_event_bus
from crewai.events.base_events import BaseEvent
from dbos import DBOS

from crewai_dbos import DBOSAgent, DriftError, _patches
from crewai_dbos._journal import endings
from crewai_dbos._journal.joining import joined
from crewai_dbos._journal.scope import Scope
from crewai_dbos._objects import events
from crewai_dbos._runs.body import ending
from crewai_dbos.testing import ModelServer, Reply, Request, error, hang, text
from support.launching import launched
from support.runs import (
    Work,
    afollow,
    entries,
    every_step,
    finish,
    follow,
    replay,
    result,
    run_id,
    steps,
)

work = Work()
call, acall = work.call, work.acall


@pytest.fixture(scope="module")
def dbos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with launched(f"sqlite:///{tmp_path_factory.mktemp('giving-up')}/dbos.sqlite"):
        yield


@pytest.fixture(autouse=True)
def forgetful(dbos: None) -> None:
    work.forget()


@DBOS.step()
def note(what: str) -> str:
    return work.do(what)


@DBOS.step()
async def anote(what: str) -> str:
    return work.do(what)


class Stopped(BaseException):
    """What ends a program from outside."""


async def never() -> None:
    await asyncio.Event().wait()


async def given_up(scope: Scope, what: str, limit: float | None = 0.05, *, times: int = 1) -> Any:
    """The call `what`, within a limit that starts when it has been made so many times.

    A limit that passes before a call is made gives up nothing that was begun. In a replay the call
    is not made again, and has been made as often before.
    """
    made = asyncio.ensure_future(acall(scope, what, never))
    while work.done[what] < times and not made.done():
        await asyncio.sleep(0.001)
    return await asyncio.wait_for(made, limit)


# Calls ------------------------------------------------------------------------


def test_a_call_that_its_caller_gave_up_does_not_end_the_run() -> None:
    def plan() -> Any:
        with joined("work") as scope:

            async def impatient() -> Any:
                try:
                    return await given_up(scope, "slow")
                except asyncio.TimeoutError:
                    return "gave up"

            return [asyncio.run(impatient()), call(scope, "b")]

    run = run_id()
    assert finish(plan, run) == ["gave up", "b 1"]
    assert replay(run) == ["gave up", "b 1"]
    assert work.done == {"slow": 1, "b": 1}


def test_a_call_given_up_before_a_step_of_the_workflow_is_given_up_again() -> None:
    async def plan() -> Any:
        with joined("work") as scope, contextlib.suppress(asyncio.TimeoutError):
            await given_up(scope, "slow")
        return await anote("after")

    run = run_id()
    assert finish(plan, run, afollow) == "after 1"
    assert replay(run) == "after 1"
    assert work.done == {"slow": 1, "after": 1}


def test_the_loser_of_a_race_loses_it_again() -> None:
    begun = asyncio.Event()

    async def hang() -> None:
        begun.set()
        await never()

    async def plan() -> Any:
        with joined("work") as scope, scope.child("race", sequential=False).entered() as race:
            fast = asyncio.ensure_future(acall(race, "fast"))
            slow = asyncio.ensure_future(acall(race, "slow", hang))
            await asyncio.wait({fast})
            await begun.wait()  # in the first run; a replay does not begin it
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow
            return [fast.result(), await acall(race, "last")]

    run = run_id()
    assert finish(plan, run, afollow) == ["fast 1", "last 1"]
    assert replay(run) == ["fast 1", "last 1"]
    assert work.done == {"fast": 1, "slow": 1, "last": 1}


class Busy(BaseEvent):
    type: str = "busy"


class Happened(BaseEvent):
    type: str = "happened"


@pytest.mark.parametrize("is_async", [False, True], ids=["sync handler", "async handler"])
def test_an_event_reaches_a_handler_that_its_emitter_no_longer_waits_for(is_async: bool) -> None:
    """crewAI's flows wait for handlers; the run hung if one had not begun when that ended."""
    _patches.apply(_patches.RUN)
    release = threading.Event()

    def handler(function: Callable[[], Any]) -> Callable[..., Any]:
        async def on_loop(source: Any, event: Any) -> None:
            function()

        return on_loop if is_async else lambda source, event: function()

    async def emit_and_leave() -> None:
        for _ in range(10):  # as many as the bus has threads
            crewai_event_bus.emit(None, Busy())
        future = crewai_event_bus.emit(None, Happened())
        assert future is not None
        asyncio.wrap_future(future).cancel()
        await asyncio.sleep(0)  # the cancellation is passed on
        release.set()

    def plan() -> str:
        with joined("work"), events.handled():
            asyncio.run(emit_and_leave())
        return "left"

    with crewai_event_bus.scoped_handlers():
        crewai_event_bus.on(Busy)(handler(lambda: release.wait(30)))
        crewai_event_bus.on(Happened)(handler(lambda: work.do("heard")))
        assert finish(plan, run_id()) == "left"
    assert work.done == {"heard": 1}


def test_a_program_that_is_being_stopped_does_not_give_up_for_good() -> None:
    """Cancelled tasks all over, as at Ctrl-C; the next process makes those calls."""
    stopping = True

    async def slow() -> str:
        if stopping:
            await never()
        return "slow after all"

    async def plan() -> Any:
        with joined("work") as scope, scope.child("all", sequential=False).entered() as here:
            tasks = [asyncio.ensure_future(acall(here, f"slow {n}", slow)) for n in (1, 2)]
            if stopping:
                while work.done.total() < 2:
                    await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                raise Stopped
            return [await task for task in tasks]

    run = run_id()
    with pytest.raises(Stopped):
        finish(plan, run, afollow)
    stopping = False
    resumed = result(DBOS.resume_workflow(run))
    assert resumed == ["slow after all", "slow after all"]
    assert work.done == {"slow 1": 2, "slow 2": 2}
    assert replay(run) == resumed
    assert work.done == {"slow 1": 2, "slow 2": 2}


def test_a_call_that_nobody_gives_up_any_more_stops_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The time limit was taken out, or there was none and the program was being stopped."""
    monkeypatch.setattr(endings, "PATIENCE", 0.1)
    limit: float | None = 0.05

    async def plan() -> Any:
        with joined("work") as scope, contextlib.suppress(asyncio.TimeoutError):
            await given_up(scope, "slow", limit)
        return await anote("after")

    run = run_id()
    assert finish(plan, run, afollow) == "after 1"
    limit = None
    with pytest.raises(DriftError, match=r"now nobody cuts it short.*the fork does the work"):
        replay(run)
    assert work.done == {"slow": 1, "after": 1}


def test_a_call_given_up_by_async_code_that_sync_code_makes_now_stops_the_run() -> None:
    """Nobody can cut sync code short, so waiting for it would be waiting for nothing."""
    sync = False

    async def plan() -> Any:
        with joined("work") as scope:
            if sync:
                return call(scope, "slow")
            with contextlib.suppress(asyncio.TimeoutError):
                await given_up(scope, "slow")
        return await anote("after")

    run = run_id()
    assert finish(plan, run, afollow) == "after 1"
    sync = True
    with pytest.raises(DriftError, match=r"made by async code, and now sync code makes it"):
        replay(run)
    assert work.done == {"slow": 1, "after": 1}


def test_a_call_that_is_given_up_twice_leaves_two_marks() -> None:
    """The program was being stopped, was resumed, and was stopped again."""
    times = 1

    async def plan() -> Any:
        with joined("work") as scope, contextlib.suppress(asyncio.TimeoutError):
            await given_up(scope, "slow", times=times)
        raise RuntimeError("stopped")

    run = run_id()
    with pytest.raises(RuntimeError, match="stopped"):
        finish(plan, run, afollow)
    assert entries(run) == ["work#1/slow#1/given_up#1"]
    times = 2
    again = DBOS.fork_workflow(run, every_step(run)[-1])
    with pytest.raises(RuntimeError, match="stopped"):
        result(again)
    marks = ["work#1/slow#1/given_up#1", "work#1/slow#1/given_up#2"]
    assert entries(again.workflow_id) == marks
    assert work.done == {"slow": 2}


def test_sync_work_that_is_cancelled_from_inside_is_so_again_without_help() -> None:
    def plan() -> Any:
        with joined("work") as scope:
            with scope.child("inside").entered() as inside:
                try:
                    with ending(inside):
                        call(inside, "a")
                        raise asyncio.CancelledError
                except asyncio.CancelledError:
                    said = "cancelled"
            return [said, call(scope, "b")]

    run = run_id()
    assert finish(plan, run) == ["cancelled", "b 1"]
    assert replay(run) == ["cancelled", "b 1"]
    assert work.done == {"a": 1, "b": 1}


# Agents -----------------------------------------------------------------------


class Model:
    """A model server whose first reply is another than the rest."""

    server: ModelServer
    first: Any = None
    rest: Reply = text("in time")

    def __call__(self, request: Request) -> Reply:
        return self.first if len(self.server.requests) == 1 else self.rest

    @property
    def requests(self) -> list[Request]:
        return self.server.requests


@pytest.fixture
def model() -> Iterator[Model]:
    model = Model()
    with ModelServer(model) as model.server:
        yield model


def agent(name: str, model: Model, **options: Any) -> DBOSAgent:
    llm = LLM(model="openai/gpt-4o-mini", api_key="sk-test", base_url=model.server.base_url)
    return DBOSAgent(
        agent_name=name,
        orig_agent=Agent(role="Clerk", goal="Work", backstory="Diligent.", llm=llm, **options),
    )


def task() -> Task:
    return Task(description="Do it.", expected_output="A text.")


def test_an_agent_that_took_too_long_took_too_long_on_recovery_too(model: Model) -> None:
    model.first = hold = hang(text("late"))
    slow = agent("slow", model, max_execution_time=1)

    def plan() -> Any:
        try:
            answer = slow.execute_task(task())
        except TimeoutError as late:
            hold.release()
            return [type(late).__name__, note("fallback")]
        return [answer, note("used")]

    run = run_id()
    release = threading.Timer(2, hold.release)
    release.start()
    expected = finish(plan, run)
    assert expected == ["TimeoutError", "fallback 1"]
    assert replay(run) == expected
    assert len(model.requests) == 1
    assert work.done == {"fallback": 1}


def test_an_async_agent_that_took_too_long_did_so_on_recovery_too(model: Model) -> None:
    model.first = hold = hang(text("late"))
    slow = agent("aslow", model, max_execution_time=1)

    async def plan() -> Any:
        try:
            answer = await slow.aexecute_task(task())
        except (TimeoutError, asyncio.TimeoutError) as late:
            return [type(late).__name__, await anote("fallback")]
        return [answer, await anote("used")]

    run = run_id()
    expected = finish(plan, run, afollow)
    assert expected == ["TimeoutError", "fallback 1"]
    assert replay(run) == expected
    hold.release()
    assert len(model.requests) == 1
    assert work.done == {"fallback": 1}


def test_an_agent_that_its_caller_gave_up_is_given_up_again(model: Model) -> None:
    model.first = hold = hang(text("late"))
    first, second = agent("given-up", model), agent("instead", model)

    async def plan() -> Any:
        asked = asyncio.ensure_future(first.aexecute_task(task()))
        await asyncio.to_thread(model.server.wait_for_requests, 1)
        try:
            return await asyncio.wait_for(asked, 0.05)
        except asyncio.TimeoutError:
            return [await second.aexecute_task(task()), await anote("fallback")]

    run = run_id()
    expected = finish(plan, run, afollow)
    assert expected == ["in time", "fallback 1"]
    assert replay(run) == expected
    hold.release()
    assert len(model.requests) == 2


def test_a_failure_that_the_workflow_caught_is_caught_again(model: Model) -> None:
    model.first = error(401)
    clerk = agent("refused", model, max_retry_limit=0)

    def plan() -> Any:
        try:
            return clerk.execute_task(task())
        except Exception as failure:
            return [type(failure).__name__, note("fallback"), clerk.execute_task(task())]

    run = run_id()
    expected = finish(plan, run)
    assert expected == ["AuthenticationError", "fallback 1", "in time"]
    assert "agent:refused#1/end#1" in entries(run)
    assert replay(run) == expected
    assert len(model.requests) == 2


def test_a_thread_that_a_failed_agent_left_behind_records_nothing_more() -> None:
    left_behind: list[threading.Thread] = []
    heard: list[BaseException] = []
    go_on = threading.Event()

    def plan() -> Any:
        with joined("work") as scope:

            def later() -> None:
                go_on.wait(30)
                try:
                    call(scope, "late")
                except BaseException as signal:
                    heard.append(signal)

            thread = threading.Thread(target=contextvars.copy_context().run, args=(later,))
            thread.start()
            left_behind.append(thread)
            with pytest.raises(ValueError, match="no more"):
                scope.record_failure(ValueError("no more"))
            go_on.set()
            thread.join()
        return note("after")

    run = run_id()
    assert finish(plan, run, follow) == "after 1"
    assert "work#1 has ended" in str(heard[0])
    assert [s["function_name"] for s in steps(run)] == ["work#1/end#1", "note"]
    assert work.done == {"after": 1}
