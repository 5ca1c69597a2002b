"""What ends a run is not hidden by what user code swallows."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS
from dbos._error import DBOSAwaitedWorkflowCancelledError

from crewai_dbos import DriftError, LostContextError
from crewai_dbos._dbos_seam.database import launched_database
from crewai_dbos._journal import execution
from crewai_dbos._journal.joining import joined, unwrapping_signals
from crewai_dbos._journal.run_scope import enclosing, for_call
from crewai_dbos._journal.scope import Scope
from journal.helpers import (
    acall,
    as_crewai_does,
    bare,
    call,
    calling,
    in_threads,
    only_sqlite,
    thread_without_context,
    work,
)
from support.databases import some_here, sqlite_here
from support.runs import Plan, begin, finish, follow_plainly, plans, replay, result, run_id


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


@sqlite_here("database")
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


ELSEWHERE: dict[str, dict[str, Any]] = {
    "cancelled": {"status": "CANCELLED", "owner_xid": None},
    "taken": {"owner_xid": "another"},
}


@pytest.mark.parametrize(
    ("how", "is_async"),
    some_here(itertools.product(ELSEWHERE, [False, True]), [("cancelled", False), ("taken", True)]),
)
def test_what_another_process_did_meanwhile_stops_the_next_call(
    dbos: None, how: str, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process hears of it by looking."""
    monkeypatch.setattr(execution, "RECENT", 0)
    changed = threading.Event()

    def change() -> None:
        runs = launched_database().runs
        with launched_database().engine.begin() as connection:
            update = sa.update(runs).where(runs.c.workflow_uuid == run)
            connection.execute(update.values(**ELSEWHERE[how]))
        changed.set()

    def plan() -> Any:
        with joined("work") as scope:
            first = call(scope, "a")
            if not changed.is_set():
                thread_without_context(change)
            return [first, asyncio.run(acall(scope, "b")) if is_async else call(scope, "b")]

    run = run_id()
    handle = begin(plan, run)
    assert changed.wait(30)
    DBOS.cancel_workflow(run)
    with pytest.raises(DBOSAwaitedWorkflowCancelledError):
        result(handle)
    assert work.done == {"a": 1}
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
        with unwrapping_signals(outer), joined("work") as scope:
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
            with unwrapping_signals(outer), joined("work") as scope:
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
