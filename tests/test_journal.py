"""What a run recorded is not done again, whatever is timed, broken, changed or swallowed meanwhile.

Real DBOS on SQLite and Postgres. A test hands a plan to a workflow, then forks the run from its
steps: what was recorded before the fork is replayed, the rest is done anew.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import itertools
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa
from dbos import DBOS, SQLAlchemyDatasource
from dbos._error import DBOSAwaitedWorkflowCancelledError, DBOSStepTimeoutError
from pydantic import BaseModel

from crewai_dbos import (
    ConcurrentRunError,
    CrewaiDbosError,
    DriftError,
    JournalCorruptError,
    LostContextError,
    StepConfig,
    UnstorableValueError,
)
from crewai_dbos._entry import Call
from crewai_dbos._errors import ControlSignal
from crewai_dbos._retry import is_transient
from crewai_dbos._run_scope import enclosing, for_call, joined, surfacing
from crewai_dbos._scope import Scope
from support.dbos_config import QUICK as QUICK_POLL
from support.runs import (
    Plan,
    Rows,
    Work,
    afollow,
    begin,
    entries,
    every_step,
    finish,
    follow,
    follow_plainly,
    fork,
    launched,
    plans,
    replay,
    result,
    run_id,
    steps,
)

work = Work()
call, acall = work.call, work.acall

QUICK = StepConfig(retries_allowed=True, max_attempts=3, interval_seconds=0.01)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[sa.Engine, Any]]:
    """A database of the user's own, and a function that writes to it in a transaction."""
    url = f"sqlite:///{tmp_path_factory.mktemp('ledger')}/ledger.sqlite"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE entries (what TEXT)"))
    # DBOS wants it before its launch, and remembers the launch of another test.
    DBOS(config={"system_database_url": url, **QUICK_POLL})
    datasource = SQLAlchemyDatasource.create(url)
    DBOS.destroy()

    @datasource.transaction()
    def enter(what: str) -> str:
        statement = sa.text("INSERT INTO entries VALUES (:what)")
        datasource.sql_session().execute(statement, {"what": what})
        return work.do(f"enter {what}")

    yield engine, enter
    engine.dispose()


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def database(
    request: pytest.FixtureRequest, ledger: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """One DBOS for all tests on it: every run has an id of its own."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('journal')}/dbos.sqlite"
    else:
        url = request.getfixturevalue("postgres").create_database()
    with launched(url):
        yield url


@pytest.fixture
def dbos(database: str) -> Iterator[None]:
    work.forget()
    yield
    plans.clear()


@pytest.fixture
def rows(dbos: None, database: str) -> Iterator[Rows]:
    rows = Rows(database)
    yield rows
    rows.close()


only_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""For what is none of the database's business."""


@DBOS.step()
def bare(what: str) -> str:
    return work.do(f"bare {what}")


@DBOS.step()
async def abare(what: str) -> str:
    await asyncio.sleep(0)
    return work.do(f"bare {what}")


@DBOS.workflow()
def child(what: str) -> str:
    return bare(f"of child {what}")


@DBOS.workflow()
async def achild(what: str) -> str:
    return await abare(f"of child {what}")


@DBOS.workflow()
def durable_child(what: str) -> str:
    with joined("inside"):
        return work.durably(what)


@DBOS.step()
def durable_bare(what: str) -> str:
    return f"bare of {work.durably(what)}"


class Pet(BaseModel):
    name: str
    tricks: list[str] = []


def thread(function: Callable[[], Any]) -> threading.Thread:
    """A thread that carries the run's context, as crewAI starts them."""
    return threading.Thread(target=contextvars.copy_context().run, args=(function,))


def in_threads(*functions: Callable[[], Any]) -> list[Any]:
    """What they return when they all run at the same time."""
    with ThreadPoolExecutor(len(functions)) as pool:
        contexts = [contextvars.copy_context() for _ in functions]
        pairs = zip(contexts, functions, strict=True)
        futures = [pool.submit(context.run, function) for context, function in pairs]
        return [future.result() for future in futures]


@contextmanager
def as_crewai_does() -> Iterator[None]:
    """What crewAI does with an error of a tool, a guardrail, a memory."""
    with suppress(Exception):
        yield


def swallowing(function: Callable[[], Any]) -> None:
    with suppress(BaseException):
        function()


def thread_without_context(function: Callable[[], Any]) -> None:
    lost = threading.Thread(target=swallowing, args=(function,))
    lost.start()
    lost.join()


class Turns:
    """Lets threads pass one after the other, in the order that was asked for."""

    def __init__(self, order: Any) -> None:
        self._order = list(order)
        self._changed = threading.Condition()

    @contextmanager
    def of(self, who: Any) -> Iterator[None]:
        with self._changed:
            assert self._changed.wait_for(lambda: self._order[0] == who, 30)
        try:
            yield
        finally:
            with self._changed:
                self._order.pop(0)
                self._changed.notify_all()


def failing(times: int, error: Exception | None = None) -> Callable[[], str]:
    """A function that fails so often before it works."""
    numbers = itertools.count(1)

    def attempt() -> str:
        if next(numbers) <= times:
            raise error or ValueError("not yet")
        return "done"

    return attempt


def replays_from_every_step(run: str, expected: Any) -> None:
    """Forks from every step give what is recorded before it, and do the rest anew, once."""
    recorded = {step["function_id"]: repr(step["output"]) for step in steps(run)}
    for step in every_step(run):
        kept = " ".join(output for id, output in recorded.items() if id < step)
        work.done.clear()
        again = fork(run, step)
        assert shape(again) == shape(expected), f"from step {step}"
        for before, now in zip(texts(expected), texts(again), strict=True):
            if re.search(rf"'{before}'", kept):
                assert now == before, f"from step {step}"
        assert work.done.total() == sum(text not in texts(expected) for text in texts(again))
    assert again == expected


def texts(value: Any) -> list[str]:
    """All texts in it that tell which time something was done."""
    if isinstance(value, str):
        return [value] if value[-1:].isdigit() else []
    return [text for item in value for text in texts(item)] if isinstance(value, list) else []


def shape(value: Any) -> Any:
    """The value without the numbers that say which time something was done."""
    if isinstance(value, str):
        return value.rstrip("0123456789")
    if isinstance(value, (list, tuple)):
        return [shape(item) for item in value]
    return value


# Replay --------------------------------------------------------------------------


def test_a_recorded_call_is_not_made_again_wherever_the_run_is_forked(dbos: None) -> None:
    def plan() -> list[Any]:
        with joined("work") as scope:
            first = [call(scope, "a"), call(scope, "b"), call(scope, "a")]
            with scope.child("part").entered() as part:
                inner = [call(part, "a"), call(part, "c")]
            with scope.child("part").entered() as part:
                inner += [call(part, "a"), call(part, "c")]
            return [*first, *inner, call(scope, "d")]

    run = run_id()
    expected = finish(plan, run)
    assert expected == ["a 1", "b 1", "a 2", "a 3", "c 1", "a 4", "c 2", "d 1"]
    for step in range(1, 10):
        work.done.clear()
        replayed = fork(run, step)
        assert replayed[: step - 1] == expected[: step - 1]
        assert shape(replayed) == shape(expected)
        assert work.done.total() == 8 - (step - 1)


def test_a_run_that_stopped_halfway_goes_on_where_it_was(dbos: None) -> None:
    class Crash(BaseException):
        pass

    crashing = True

    def crash() -> str:
        if crashing:
            raise Crash
        return "survived"

    def plan() -> list[Any]:
        with joined("work") as scope:
            return [call(scope, "a"), call(scope, "b", crash), call(scope, "c")]

    run = run_id()
    with pytest.raises(Crash):
        finish(plan, run)
    assert entries(run) == ["work#1/a#1"]
    crashing = False
    assert result(DBOS.resume_workflow(run)) == ["a 1", "survived", "c 1"]
    assert work.done == {"a": 1, "b": 2, "c": 1}


def test_the_first_run_gets_the_same_copy_as_a_replay(dbos: None) -> None:
    pet = Pet(name="Rex", tricks=["sit"])

    def plan() -> Any:
        with joined("work") as scope:
            given = call(scope, "pet", lambda: {"pet": pet, 1: (2, math.inf)})
            assert given["pet"] is not pet
            given["pet"].tricks.append("roll")
            return given

    run = run_id()
    expected = finish(plan, run)
    assert expected == {"pet": Pet(name="Rex", tricks=["sit", "roll"]), 1: (2, math.inf)}
    assert pet.tricks == ["sit"]
    assert replay(run) == expected


def test_an_error_is_recorded_and_raised_again(dbos: None) -> None:
    response = httpx.Response(400, request=httpx.Request("POST", "http://x"))

    def fails() -> Any:
        raise openai.BadRequestError("too long", response=response, body={"code": "length"})

    def plan() -> Any:
        with joined("work") as scope:
            try:
                return call(scope, "a", fails)
            except openai.BadRequestError as error:
                return [type(error), str(error), error.status_code, error.code, call(scope, "b")]

    run = run_id()
    expected = finish(plan, run)
    assert expected == [openai.BadRequestError, "too long", 400, "length", "b 1"]
    assert replay(run) == expected
    assert work.done == {"a": 1, "b": 1}


def test_a_summary_is_replayed_without_going_inside_and_from_inside_if_it_is_missing(
    dbos: None,
) -> None:
    entered = 0

    def plan() -> Any:
        with joined("work") as scope:

            def inside() -> list[Any]:
                nonlocal entered
                entered += 1
                here = Scope(scope.journal, "work#1/sum#1")
                return [call(here, "a"), call(here, "b")]

            whole = Call("sum", kind="work")
            return [scope.journal.summarize(scope, whole, inside, ordered=True), call(scope, "c")]

    run = run_id()
    expected = finish(plan, run)
    assert expected == [["a 1", "b 1"], "c 1"]
    assert entries(run) == ["work#1/sum#1/a#1", "work#1/sum#1/b#1", "work#1/sum#1", "work#1/c#1"]
    entered = 0
    assert fork(run, 4) == [["a 1", "b 1"], "c 2"]
    assert entered == 0
    assert fork(run, 3) == [["a 1", "b 1"], "c 3"]
    assert fork(run, 2) == [["a 1", "b 2"], "c 4"]
    assert entered == 2


def test_a_summary_that_fails_is_recorded_as_failed(dbos: None) -> None:
    def plan() -> Any:
        with joined("work") as scope:

            def inside() -> Any:
                raise KeyError(work.do("inside"))

            try:
                return scope.journal.summarize(scope, Call("sum", kind="work"), inside)
            except KeyError as error:
                return error.args[0]

    run = run_id()
    assert finish(plan, run) == "inside 1"
    assert replay(run) == "inside 1"


def test_what_a_call_left_behind_is_put_back_on_replay(dbos: None) -> None:
    tokens: list[int] = []

    def plan() -> Any:
        with joined("work") as scope:
            return call(
                scope,
                "a",
                collect=lambda: {"tokens": 7},
                restore=lambda e: tokens.append(e["tokens"]),
            )

    run = run_id()
    assert finish(plan, run) == "a 1"
    assert tokens == []
    assert replay(run) == "a 1"
    assert tokens == [7]


def test_a_call_made_in_a_running_event_loop_is_recorded_too(dbos: None) -> None:
    async def plan() -> list[Any]:
        with joined("work") as scope:
            return [call(scope, "a"), await acall(scope, "b"), call(scope, "c")]

    run = run_id()
    assert finish(plan, run, afollow) == ["a 1", "b 1", "c 1"]
    assert replay(run) == ["a 1", "b 1", "c 1"]


def test_a_coroutine_function_can_be_a_sync_call(dbos: None) -> None:
    async def body() -> str:
        await asyncio.sleep(0)
        return work.do("inside")

    def plan() -> Any:
        with joined("work") as scope:
            return scope.journal.run(scope, Call("a", kind="work"), body)

    run = run_id()
    assert finish(plan, run) == "inside 1"
    assert replay(run) == "inside 1"


# Retries and limits ------------------------------------------------------------------


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


# Results that can't be stored ----------------------------------------------------------


@only_sqlite
def test_a_result_without_a_json_form_is_an_error_that_is_recorded(dbos: None) -> None:
    def plan() -> Any:
        with joined("work") as scope:
            try:
                return call(scope, "a", object, config=QUICK)
            except UnstorableValueError as error:
                return str(error)

    run = run_id()
    told = finish(plan, run)
    assert "top level of a module" in told
    assert replay(run) == told
    assert work.done == {"a": 1}


@only_sqlite
def test_a_result_without_a_json_form_may_be_recorded_as_text(
    dbos: None, caplog: pytest.LogCaptureFixture
) -> None:
    def plan() -> Any:
        with joined("work") as scope:
            return call(scope, "a", object, as_text=lambda value: type(value).__name__)

    run = run_id()
    assert finish(plan, run) == "object"
    assert "a returned object, which has no JSON form" in caplog.text
    assert replay(run) == "object"


@pytest.mark.parametrize(
    "value", [QUICK.__class__, 10**5000], ids=["a class", "a number of 5000 digits"]
)
def test_whatever_a_call_returns_it_is_made_once(dbos: None, value: Any) -> None:
    def plan() -> Any:
        with joined("work") as scope:
            try:
                return type(call(scope, "a", lambda: value, config=QUICK)) is type(value)
            except UnstorableValueError:
                return True

    run = run_id()
    assert finish(plan, run) is True
    assert replay(run) is True
    assert work.done == {"a": 1}


@only_sqlite
def test_whatever_a_call_leaves_behind_it_is_made_once(dbos: None) -> None:
    def plan() -> Any:
        with joined("work") as scope:
            with pytest.raises(UnstorableValueError):
                call(scope, "a", collect=lambda: {"state": object()}, config=QUICK)
            return call(scope, "b")

    run = run_id()
    assert finish(plan, run) == "b 1"
    assert replay(run) == "b 1"
    assert work.done == {"a": 1, "b": 1}


# Things that happen at the same time ---------------------------------------------------


def test_parallel_calls_keep_their_results_when_they_arrive_in_another_order(dbos: None) -> None:
    names = ["a", "b", "c", "d"]

    def plan_in(order: str) -> Plan:
        def plan() -> Any:
            turns = Turns(order)
            with joined("work") as scope:

                def one(name: str) -> Any:
                    with turns.of(name):
                        return call(scope, name, concurrent=True)

                results = in_threads(*(lambda name=name: one(name) for name in names))
                return [*results, call(scope, "end")]

        return plan

    run = run_id()
    expected = finish(plan_in("cabd"), run)
    assert expected == ["a 1", "b 1", "c 1", "d 1", "end 1"]
    assert replay(run, plan_in("dbac")) == expected
    for step in every_step(run):
        again = fork(run, step, plan_in("dcba"))
        assert shape(again) == shape(expected)
        assert again[2] == ("c 1" if step > 1 else again[2])


def test_calls_of_an_unordered_scope_are_told_apart_by_what_they_ask(dbos: None) -> None:
    questions = {"one": "x", "two": "y", "three": "z"}

    def plan_in(order: list[str]) -> Plan:
        def plan() -> Any:
            turns = Turns(order)
            with joined("work") as scope, scope.child("all", ordered=False).entered() as here:

                def ask(question: str) -> Any:
                    with turns.of(question):
                        body = lambda: work.do(f"answer to {question}")  # noqa: E731
                        return call(here, "llm", body, request={"question": questions[question]})

                return in_threads(*(lambda q=question: ask(q) for question in questions))

        return plan

    run = run_id()
    expected = finish(plan_in(["one", "two", "three"]), run)
    assert shape(expected) == shape(["answer to one ", "answer to two ", "answer to three "])
    assert replay(run, plan_in(["three", "one", "two"])) == expected


def test_equal_calls_at_the_same_time_are_each_made_once(dbos: None) -> None:
    def plan() -> Any:
        with joined("work") as scope:
            return sorted(in_threads(*[lambda: call(scope, "a", concurrent=True)] * 4))

    run = run_id()
    expected = finish(plan, run)
    assert expected == ["a 1", "a 2", "a 3", "a 4"]
    assert sorted(entries(run)) == [f"work#1/a#{n}" for n in (1, 2, 3, 4)]
    assert replay(run) == expected
    work.done.clear()
    assert len(fork(run, 3)) == 4
    assert work.done == {"a": 2}


def test_branches_of_an_event_loop_keep_their_results_when_they_take_turns_otherwise(
    dbos: None,
) -> None:
    def plan_with(waits: list[int]) -> Plan:
        def plan() -> Any:
            with joined("work") as scope:

                async def branch(number: int) -> list[Any]:
                    with scope.child(f"branch {number}").entered() as here:
                        got = []
                        for _ in range(3):
                            for _ in range(waits[number]):
                                await asyncio.sleep(0)
                            got += [await acall(here, "a"), await abare(f"{number}")]
                        return got

                async def together() -> list[Any]:
                    return await asyncio.gather(*(branch(n) for n in range(len(waits))))

                return [asyncio.run(together()), call(scope, "end")]

        return plan

    run = run_id()
    expected = finish(plan_with([0, 3, 9]), run)
    assert replay(run, plan_with([9, 3, 0])) == expected
    for step in every_step(run)[::3]:
        assert shape(fork(run, step, plan_with([5, 0, 5]))) == shape(expected)


def test_a_step_of_the_workflow_beside_a_run_is_replayed_or_refused_but_never_mistaken(
    dbos: None,
) -> None:
    async def plan() -> Any:
        async def a_run() -> list[Any]:
            with joined("work") as scope:
                return [await acall(scope, "a"), await acall(scope, "b")]

        return await asyncio.gather(a_run(), abare("beside"), abare("beside too"))

    run = run_id()
    expected = finish(plan, run, afollow)
    for step in every_step(run):
        kept = repr([row["output"] for row in steps(run) if row["function_id"] < step])
        try:
            again = fork(run, step)
        except CrewaiDbosError:
            continue
        for before, now in zip(texts(expected), texts(again), strict=True):
            assert shape(now) == shape(before)
            if f"'{before}'" in kept:
                assert now == before


def test_an_async_workflow_has_parallel_branches_too(dbos: None) -> None:
    async def plan() -> Any:
        with joined("work") as scope:

            async def branch(number: int) -> list[Any]:
                with scope.child(f"branch {number}").entered() as here:
                    return [
                        await acall(here, "a"),
                        await abare(f"{number}"),
                        await acall(here, "b"),
                    ]

            return [await asyncio.gather(*map(branch, range(3))), await acall(scope, "end")]

    run = run_id()
    expected = finish(plan, run, afollow)
    replays_from_every_step(run, expected)


@only_sqlite
def test_two_calls_at_once_that_only_their_order_tells_apart_are_refused(dbos: None) -> None:
    started, released = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        released.wait(30)

    def plan() -> Any:
        with joined("work") as scope:
            other = thread(lambda: call(scope, "a", wait))
            other.start()
            assert started.wait(30)
            try:
                return call(scope, "b")
            finally:
                released.set()
                other.join()

    with pytest.raises(ConcurrentRunError, match=r"b was called.*while work#1/a#1 was still"):
        finish(plan, run_id())
    assert "b" not in work.done


def beside(save_after: int, save_ends_after: int) -> Plan:
    """Two calls, and one in the background that starts and ends after so many of them."""

    def plan() -> list[Any]:
        steps = [threading.Event() for _ in range(4)]
        saved: list[Any] = []
        with joined("work") as scope:

            def body() -> str:
                assert steps[save_ends_after].wait(30)
                return work.do("save")

            def save() -> None:
                assert steps[save_after].wait(30)
                call = Call("save", kind="work", background=True)
                try:
                    saved.append(scope.journal.run(scope, call, body))
                finally:
                    steps[3].set()

            background = thread(lambda: swallowing(save))
            background.start()
            try:
                steps[0].set()
                if save_ends_after == 0:
                    assert steps[3].wait(30)
                first = call(scope, "a")
                steps[1].set()
                second = call(scope, "b")
                steps[2].set()
            finally:
                for step in steps[:3]:
                    step.set()
                background.join(30)
        return [first, second, *saved]

    return plan


TIMINGS = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2)]


@only_sqlite
@pytest.mark.parametrize("recorded", TIMINGS, ids=str)
def test_a_call_in_the_background_may_be_early_or_late_on_recovery(
    dbos: None, recorded: tuple[int, int]
) -> None:
    run = run_id()
    expected = finish(beside(*recorded), run)
    assert expected == ["a 1", "b 1", "save 1"]
    for timing in TIMINGS:
        for step in every_step(run):
            work.done.clear()
            again = fork(run, step, beside(*timing))
            assert shape(again) == shape(expected)
            assert work.done.total() == len(every_step(run)) - every_step(run).index(step) - 1


# Operations of DBOS that the user makes --------------------------------------------------


def operations(enter: Any) -> dict[str, Callable[[], Any]]:
    return {
        "a step": lambda: bare("x"),
        "a sleep": lambda: DBOS.sleep(0.001),
        "an event": lambda: DBOS.set_event("key", "value"),
        "a sent message": lambda: DBOS.send(str(DBOS.workflow_id), "hello", "topic"),
        "a message that does not come": lambda: DBOS.recv("other topic", timeout_seconds=0),
        "a child": lambda: child("x"),
        "a started child": lambda: result(DBOS.start_workflow(child, "x")),
        "a transaction": lambda: enter("x"),
    }


OPERATIONS = list(operations(None))


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_of_dbos_between_calls_replays(dbos: None, ledger: Any, name: str) -> None:
    operation = operations(ledger[1])[name]

    def plan() -> Any:
        with joined("work") as scope:
            first = [call(scope, "a"), operation(), call(scope, "b")]
            with scope.child("part").entered() as part:
                inner = [operation(), call(part, "a"), operation()]
            return [*first, *inner, call(scope, "c")]

    run = run_id()
    expected = finish(plan, run)
    replays_from_every_step(run, expected)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_of_dbos_in_parallel_threads_keep_their_results(
    dbos: None, ledger: Any, name: str
) -> None:
    operation = operations(ledger[1])[name]

    def plan_in(order: str) -> Plan:
        def plan() -> Any:
            turns = Turns(order)
            with joined("work") as scope:

                def branch(label: str) -> list[Any]:
                    with turns.of(label), scope.child(label).entered() as here:
                        got = [operation(), call(here, "a")]
                    with turns.of(label), here.entered():
                        return [*got, operation(), call(here, "b")]

                return [in_threads(*(lambda b=b: branch(b) for b in "xyz")), call(scope, "end")]

        return plan

    run = run_id()
    expected = finish(plan_in("xyzzxy"), run)
    assert work.done["a"] == 3
    work.done.clear()
    assert replay(run, plan_in("zxyyxz")) == expected
    assert work.done.total() == 0
    for step in every_step(run)[:: max(1, len(steps(run)) // 5)]:
        assert shape(fork(run, step, plan_in("yxzxzy"))) == shape(expected)


def test_operations_of_dbos_in_a_gather_keep_their_results(dbos: None) -> None:
    async def started(handle: Any) -> Any:
        return await handle.get_result(polling_interval_sec=0.01)

    async def plan() -> Any:
        with joined("work") as scope:

            async def branch(label: str) -> list[Any]:
                with scope.child(label).entered() as here:
                    return [
                        await abare(label),
                        await acall(here, "a"),
                        await DBOS.sleep_async(0.001),
                        await achild(label),
                        await started(await DBOS.start_workflow_async(achild, label)),
                        await abare(label),
                    ]

            return [await asyncio.gather(*map(branch, "xy")), await acall(scope, "end")]

    run = run_id()
    expected = finish(plan, run, afollow)
    replays_from_every_step(run, expected)


def test_a_transaction_in_a_run_is_made_once(dbos: None, ledger: Any) -> None:
    engine, enter = ledger

    def plan() -> Any:
        with joined("work") as scope:
            return [enter("once"), call(scope, "a"), enter("twice")]

    def count(what: str) -> int:
        with engine.connect() as connection:
            statement = sa.text("SELECT count(*) FROM entries WHERE what = :what")
            return int(connection.execute(statement, {"what": what}).scalar_one())

    run = run_id()
    expected = finish(plan, run)
    before = count("once"), count("twice")
    assert replay(run) == expected
    assert (count("once"), count("twice")) == before
    fork(run, steps(run)[-1]["function_id"])
    assert (count("once"), count("twice")) == (before[0], before[1] + 1)


def test_steps_around_and_between_two_runs_of_one_workflow_replay(dbos: None) -> None:
    def plan() -> list[Any]:
        got = [bare("before")]
        with joined("work") as scope:
            got += [call(scope, "a"), bare("inside"), call(scope, "b")]
        got += [bare("between"), bare("between")]
        with joined("work") as scope:
            got += in_threads(*(lambda n=n: call(scope, n, concurrent=True) for n in "cde"))
        got += [child("after"), bare("after")]
        with joined("other") as scope, scope.child("part").entered() as part:
            got += [call(part, "a")]
        return [*got, bare("last")]

    run = run_id()
    expected = finish(plan, run)
    assert len(expected) == 13
    replays_from_every_step(run, expected)


def test_a_step_after_a_run_that_failed_replays(dbos: None) -> None:
    def fails() -> Any:
        raise ValueError(work.do("b"))

    def plan() -> Any:
        got: list[Any] = []
        try:
            with joined("work") as scope:
                got.append(call(scope, "a"))
                scope.journal.run(scope, Call("b", kind="work"), fails)
        except ValueError as error:
            got.append(str(error))
        return [*got, bare("after")]

    run = run_id()
    expected = finish(plan, run)
    assert expected == ["a 1", "b 1", "bare after 1"]
    replays_from_every_step(run, expected)


@DBOS.step(name="review#1")
def reviewed(what: str) -> str:
    return work.do(f"review of {what}")


def test_a_step_of_the_user_may_have_a_name_that_looks_like_ours(dbos: None) -> None:
    def plan() -> Any:
        got = [reviewed("x"), work.durably("a")]
        with joined("work") as scope:
            got += [reviewed("y"), call(scope, "b")]
        return [*got, work.durably("c"), reviewed("z")]

    run = run_id()
    expected = finish(plan, run)
    replays_from_every_step(run, expected)


def test_what_a_child_workflow_does_is_recorded_in_the_child(dbos: None) -> None:
    def plan() -> Any:
        with joined("work") as scope:
            return [call(scope, "a"), durable_child("x"), call(scope, "b")]

    run = run_id()
    assert finish(plan, run) == ["a 1", "x 1", "b 1"]
    [started] = DBOS.list_workflows(parent_workflow_id=run)
    assert entries(started.workflow_id) == ["inside#1/x#1"]
    assert entries(run) == ["work#1/a#1", "work#1/b#1"]
    assert replay(run) == ["a 1", "x 1", "b 1"]


def test_what_happens_inside_a_step_is_recorded_with_the_step(dbos: None) -> None:
    def plan() -> Any:
        with joined("work") as scope:
            return [call(scope, "a"), durable_bare("x"), call(scope, "x")]

    run = run_id()
    assert finish(plan, run) == ["a 1", "bare of x 1", "x 2"]
    assert entries(run) == ["work#1/a#1", "work#1/x#1"]
    assert replay(run) == ["a 1", "bare of x 1", "x 2"]


# Other code than the run was recorded with ------------------------------------------------


def calling(names: str, then: str = "") -> Plan:
    def plan() -> list[Any]:
        with joined("work") as scope:
            got = [call(scope, name) for name in names]
        return [*got, *(bare(name) for name in then)]

    return plan


@only_sqlite
@pytest.mark.parametrize(
    ("now", "expected"),
    [("bcd", "a"), ("acd", "b"), ("xbcd", "a"), ("abxcd", "c"), ("xabcd", "a"), ("axcd", "b"),
     ("abcx", "d"), ("bacd", "a"), ("abdc", "c")],
)  # fmt: skip
def test_a_call_that_is_gone_new_or_another_one_stops_the_run(
    dbos: None, now: str, expected: str
) -> None:
    run = run_id()
    finish(calling("abcd"), run)
    work.done.clear()
    with pytest.raises(DriftError, match=rf"next comes work#1/{expected}#1") as caught:
        replay(run, calling(now))
    assert "Put the code back" in str(caught.value)
    assert work.done.total() == 0


@only_sqlite
def test_a_last_call_that_is_gone_stops_the_run(dbos: None) -> None:
    run = run_id()
    finish(calling("abcd"), run)
    with pytest.raises(DriftError, match=r"work#1/d#1"):
        replay(run, calling("abc"))


@only_sqlite
def test_a_call_that_is_gone_from_the_end_of_a_part_stops_the_run(dbos: None) -> None:
    def plan_with(names: str) -> Plan:
        def plan() -> Any:
            with joined("work") as scope:
                with scope.child("part").entered() as part:
                    got = [call(part, name) for name in names]
                return [*got, call(scope, "end")]

        return plan

    run = run_id()
    finish(plan_with("ab"), run)
    with pytest.raises(DriftError, match=r"work#1/part#1/b#1"):
        replay(run, plan_with("a"))


@only_sqlite
@pytest.mark.parametrize("now", ["abx", "ab"])
def test_a_recorded_step_after_the_run_is_not_made_again_whatever_the_run_does_now(
    dbos: None, now: str
) -> None:
    run = run_id()
    finish(calling("abc" if now == "ab" else "ab", then="z"), run)
    work.done.clear()
    with pytest.raises(DriftError):
        replay(run, calling(now, then="z"))
    assert work.done["bare z"] == 0


@only_sqlite
@pytest.mark.parametrize(
    ("recorded", "now"),
    [
        ("a step", "another step"),
        ("a step", "a sleep"),
        ("a step", "a child"),
        ("a step", "a transaction"),
        ("a sleep", "a step"),
        ("a sleep", "an event"),
        ("a child", "a step"),
        ("a child", "another child"),
        ("a started child", "a step"),
        ("a transaction", "a step"),
    ],
)
def test_another_operation_of_dbos_at_the_same_place_stops_the_run(
    dbos: None, ledger: Any, recorded: str, now: str
) -> None:
    """Also if what DBOS says about it is swallowed, as crewAI does with the error of a tool."""
    known = {
        **operations(ledger[1]),
        "another step": lambda: asyncio.run(abare("x")),
        "another child": lambda: durable_child("x"),
    }

    def plan_with(name: str) -> Plan:
        def plan() -> Any:
            with joined("work") as scope:
                with as_crewai_does():
                    known[name]()
                with as_crewai_does():
                    return call(scope, "a")
                return "swallowed"

        return plan

    run = run_id()
    finish(plan_with(recorded), run)
    work.done.clear()
    with pytest.raises(DriftError):
        replay(run, plan_with(now))
    assert work.done.total() == 0


@only_sqlite
def test_another_request_uses_the_record_and_one_warning_says_so(
    dbos: None, caplog: pytest.LogCaptureFixture
) -> None:
    def plan_with(text: str) -> Plan:
        def plan() -> list[Any]:
            with joined("work") as scope:
                return [
                    call(scope, name, request={"messages": [text], "tools": ["t"]})
                    for name in ("a", "a", "b")
                ]

        return plan

    run = run_id()
    expected = finish(plan_with("before"), run)
    assert replay(run) == expected
    assert caplog.text == ""
    assert replay(run, plan_with("after")) == expected
    [record] = [record for record in caplog.records if record.name == "crewai_dbos"]
    assert "work#1/a#1 was recorded with other messages." in record.getMessage()
    assert work.done == {"a": 2, "b": 1}


# Rows that can't be read -----------------------------------------------------------------

DAMAGED = {
    "not JSON": "garbage",
    "nothing": None,
    "another kind of JSON": '"text"',
    "a newer version": '{"v":2,"kind":"work","result":1}',
    "no kind": '{"v":1,"result":1}',
    "no result": '{"v":1,"kind":"work"}',
    "an unknown type": '{"v":1,"kind":"work","result":{"$later":1}}',
    "a class that is gone": '{"v":1,"kind":"work","result":{"$model":"a:B","fields":{},"set":[]}}',
    "half a model": '{"v":1,"kind":"work","result":{"$model":"test_journal:Pet"}}',
    "a class that is not known": '{"v":1,"kind":"work","result":{"$local":"a:B","data":{}}}',
    "half an error": '{"v":1,"kind":"work","error":{}}',
    "an odd error": '{"v":1,"kind":"work","error":{"type":1,"message":2}}',
    "an odd request": '{"v":1,"kind":"work","result":1,"request":["x"]}',
    "odd ids": '{"v":1,"kind":"work","result":1,"ids":"x"}',
}


@pytest.mark.parametrize("name", DAMAGED)
def test_an_entry_that_can_not_be_read_stops_the_run(dbos: None, rows: Rows, name: str) -> None:
    def plan() -> Any:
        with joined("work") as scope:
            got = [call(scope, "a")]
            with as_crewai_does():
                got.append(call(scope, "b", request={"messages": "x"}))
            return [*got, call(scope, "c")]

    run = run_id()
    finish(plan, run)
    rows.damage(run, "work#1/b#1", DAMAGED[name])
    work.done.clear()
    with pytest.raises(JournalCorruptError, match=r"work#1/b#1"):
        replay(run)
    assert work.done.total() == 0
    # As the message says: from before that entry.
    assert shape(fork(run, 2)) == ["a ", "b ", "c "]


# What a user's code swallows ---------------------------------------------------------------


def everything_swallowed(scope: Scope, name: str) -> None:
    with as_crewai_does():
        call(scope, name)


def everything_gathered(scope: Scope, name: str) -> None:
    async def together() -> None:
        await asyncio.gather(acall(scope, name), return_exceptions=True)

    asyncio.run(together())


def everything_left_in_a_future(scope: Scope, name: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(contextvars.copy_context().run, call, scope, name)


SWALLOWING = [everything_swallowed, everything_gathered, everything_left_in_a_future]


@only_sqlite
@pytest.mark.parametrize("swallow", SWALLOWING)
def test_a_drift_is_not_hidden_by_what_is_swallowed(
    dbos: None, swallow: Callable[[Scope, str], None]
) -> None:
    def drifting() -> Any:
        with joined("work") as scope:
            swallow(scope, "x")
            return "went on"

    run = run_id()
    finish(calling("ab"), run)
    work.done.clear()
    with pytest.raises(DriftError, match=r"next comes work#1/a#1, but work#1/x#1 was called"):
        replay(run, drifting)
    assert work.done.total() == 0


@pytest.mark.parametrize("swallow", SWALLOWING)
def test_a_cancel_is_not_hidden_by_what_is_swallowed(
    dbos: None, swallow: Callable[[Scope, str], None]
) -> None:
    started, cancelled = threading.Event(), threading.Event()

    def wait() -> str:
        started.set()
        assert cancelled.wait(30)
        return "a"

    def plan() -> Any:
        with joined("work") as scope:
            with as_crewai_does():
                call(scope, "a", wait)
            swallow(scope, "b")
            swallow(scope, "c")
            return "went on"

    run = run_id()
    handle = begin(plan, run)
    assert started.wait(30)
    DBOS.cancel_workflow(run)
    cancelled.set()
    with pytest.raises(DBOSAwaitedWorkflowCancelledError):
        result(handle)
    assert work.done == {"a": 1}
    assert handle.get_status().status == "CANCELLED"


def test_a_cancel_between_two_calls_stops_the_second(dbos: None) -> None:
    def plan() -> Any:
        with joined("work") as scope:
            first = call(scope, "a")
            if cancelling:
                thread_without_context(lambda: DBOS.cancel_workflow(run))
            return [first, call(scope, "b")]

    run, cancelling = run_id(), True
    with pytest.raises(DBOSAwaitedWorkflowCancelledError):
        finish(plan, run)
    assert "b" not in work.done
    cancelling = False
    assert result(DBOS.resume_workflow(run)) == ["a 1", "b 1"]


@only_sqlite
def test_after_the_end_no_other_branch_makes_a_call(dbos: None) -> None:
    stopped = threading.Event()

    def plan() -> Any:
        with joined("work") as scope:

            def bad() -> None:
                with scope.child("bad").entered() as here:
                    try:
                        call(here, "x")
                    finally:
                        stopped.set()

            def good() -> Any:
                assert stopped.wait(30)
                with scope.child("good").entered() as here, as_crewai_does():
                    return [bare("x"), call(here, "y")]

            return in_threads(bad, good)

    run = run_id()

    def first() -> Any:
        with joined("work") as scope, scope.child("bad").entered() as here:
            return call(here, "a")

    finish(first, run)
    work.done.clear()
    with pytest.raises(DriftError):
        replay(run, plan)
    assert work.done.total() == 0


@only_sqlite
def test_what_ends_a_run_reaches_a_users_own_workflow_as_the_error_itself(dbos: None) -> None:
    def plan() -> Any:
        outer = enclosing()
        assert outer is not None
        with surfacing(outer), joined("work") as scope:
            thread_without_context(lambda: for_call(scope, "LLM request"))
        return "went on"

    run = run_id()
    handle = begin(plan, run, follow_plainly)
    with pytest.raises(LostContextError):
        result(handle)
    assert handle.get_status().status == "ERROR"


@only_sqlite
def test_a_drift_in_a_users_own_workflow_cancels_it_and_says_why(dbos: None) -> None:
    def plan_with(names: str) -> Plan:
        def plan() -> Any:
            outer = enclosing()
            assert outer is not None
            with surfacing(outer), joined("work") as scope:
                return [call(scope, name) for name in names]

        return plan

    run = run_id()
    assert finish(plan_with("ab"), run, follow_plainly) == ["a 1", "b 1"]
    plans[run] = plan_with("xb")
    handle = DBOS.fork_workflow(run, 3)
    with pytest.raises(DBOSAwaitedWorkflowCancelledError):
        result(handle)
    noted = (handle.get_status().attributes or {})["crewai_dbos"]
    assert noted["error"] == "DriftError"
    assert "next comes work#1/a#1, but work#1/x#1 was called" in noted["stopped"]
    plans[run] = plan_with("ab")
    assert result(DBOS.resume_workflow(handle.workflow_id)) == ["a 1", "b 1"]
    assert work.done == {"a": 1, "b": 1}


# Threads ---------------------------------------------------------------------------------


@only_sqlite
def test_a_thread_without_the_runs_context_is_an_error_at_once(dbos: None) -> None:
    def plan() -> Any:
        with joined("work") as scope:

            def ask() -> None:
                here = for_call(scope, "LLM request of gpt")
                call(here or scope, "unrecorded")

            thread_without_context(ask)
            return "went on"

    run = run_id()
    with pytest.raises(LostContextError, match=rf"{run}: the LLM request of gpt was made on a"):
        finish(plan, run)
    assert work.done.total() == 0


@only_sqlite
def test_a_thread_that_outlives_the_run_makes_no_call(dbos: None) -> None:
    over = threading.Event()
    outcome: list[BaseException] = []
    threads: list[threading.Thread] = []

    def plan() -> Any:
        with joined("work") as scope:

            def late() -> None:
                assert over.wait(30)
                try:
                    call(scope, "late")
                except BaseException as error:
                    outcome.append(error)

            threads.append(thread(late))
            threads[0].start()
            return call(scope, "a")

    run = run_id()
    assert finish(plan, run) == "a 1"
    over.set()
    threads[0].join(30)
    assert work.done == {"a": 1}
    assert entries(run) == ["work#1/a#1"]
    [error] = outcome
    assert isinstance(error, ControlSignal), "an `except Exception` of crewAI would swallow it"
    assert isinstance(error.error, LostContextError)
    assert f"Run {run} is over" in str(error)


def test_two_runs_at_the_same_time_do_not_see_each_other(dbos: None, tmp_path: Path) -> None:
    both = threading.Barrier(2)

    def plan() -> Any:
        with joined("work") as scope:
            both.wait(30)
            return [call(scope, "a", lambda: DBOS.workflow_id), call(scope, "b")]

    runs = [run_id(), run_id()]
    handles = [begin(plan, run) for run in runs]
    results = [result(handle) for handle in handles]
    assert [got[0] for got in results] == runs
    both = threading.Barrier(1)
    for run, got in zip(runs, results, strict=True):
        assert replay(run) == got
    assert work.done == {"a": 2, "b": 2}


@only_sqlite
def test_a_workflow_inside_a_recorded_call_is_refused_by_dbos_and_recorded_so(dbos: None) -> None:
    plans["inner"] = lambda: "inner"

    def plan() -> Any:
        with joined("work") as scope:
            with pytest.raises(AssertionError):
                call(scope, "a", lambda: follow("inner"))
            return call(scope, "b")

    run = run_id()
    assert finish(plan, run) == "b 1"
    assert replay(run) == "b 1"
