"""What the user's code does with DBOS inside, around and between runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS

from crewai_dbos import CrewaiDbosError, DefinitionError
from crewai_dbos._dbos_seam.context import open_workflow
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.joining import joined
from journal.helpers import (
    Turns,
    abare,
    acall,
    achild,
    as_crewai_does,
    bare,
    call,
    child,
    durable_bare,
    durable_child,
    in_threads,
    operations,
    replays_from_steps,
    shape,
    work,
)
from support.databases import sqlite_here
from support.entries import how_many
from support.runs import Plan, afollow, entries, every_step, finish, fork, replay, run_id, steps

pytestmark = [pytest.mark.thorough, pytest.mark.some_entries, sqlite_here("database")]

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
    replays_from_steps(run, expected)


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
    for step in every_step(run)[:: max(1, len(steps(run)) // how_many(2, 5))]:
        assert shape(fork(run, step, plan_in("yxzxzy"))) == shape(expected)


def test_a_dbos_that_draws_step_ids_in_another_way_stops_the_run(dbos: None) -> None:
    def plan() -> Any:
        with joined("work") as scope:
            call(scope, "a")
            with as_crewai_does():
                open_workflow().function_id += 2
            return call(scope, "b")

    with pytest.raises(CrewaiDbosError, match=r"counter from .* Use a release of crewai-dbos"):
        finish(plan, run_id())
    assert work.done == {"a": 1}


def test_a_patch_inside_a_run_is_refused_and_beside_it_works(dbos: None) -> None:
    """It looks at what is recorded under the next step id, which a run does not know."""
    inside = True

    def plan() -> Any:
        patched = DBOS.patch("new")
        with joined("work") as scope:
            got = [patched, call(scope, "a")]
            if inside:
                with as_crewai_does():
                    got.append(DBOS.patch("newer"))
            return [*got, call(scope, "b")]

    with pytest.raises(DefinitionError, match=r"DBOS.patch was called inside a run.* before the"):
        finish(plan, run_id())
    assert work.done == {"a": 1}
    inside = False
    run = run_id()
    assert finish(plan, run) == [True, "a 2", "b 1"]
    assert replay(run) == [True, "a 2", "b 1"]


async def apatched(scope: Any) -> Any:
    with as_crewai_does():
        await DBOS.patch_async("newer")
    return await acall(scope, "a")


def test_a_patch_of_async_code_inside_a_run_is_refused(dbos: None) -> None:
    async def plan() -> Any:
        with joined("work") as scope:
            return await apatched(scope)

    with pytest.raises(DefinitionError, match=r"DBOS.patch_async was called inside a run"):
        finish(plan, run_id(), afollow)
    assert work.done.total() == 0


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
    replays_from_steps(run, expected)


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
    replays_from_steps(run, expected)


def test_a_step_after_a_run_that_failed_replays(dbos: None) -> None:
    def fails() -> Any:
        raise ValueError(work.do("b"))

    def plan() -> Any:
        got: list[Any] = []
        try:
            with joined("work") as scope:
                got.append(call(scope, "a"))
                scope.run(Call("b", kind="work"), fails)
        except ValueError as error:
            got.append(str(error))
        return [*got, bare("after")]

    run = run_id()
    expected = finish(plan, run)
    assert expected == ["a 1", "b 1", "bare after 1"]
    replays_from_steps(run, expected)


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
    replays_from_steps(run, expected)


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
