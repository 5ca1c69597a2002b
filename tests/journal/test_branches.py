"""Calls and steps that are made at the same time keep their results."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from crewai_dbos import ConcurrentRunError, CrewaiDbosError
from crewai_dbos._journal.joining import joined
from journal.helpers import (
    Turns,
    abare,
    acall,
    call,
    in_threads,
    only_sqlite,
    replays_from_steps,
    shape,
    texts,
    thread,
    work,
)
from support.databases import sqlite_here
from support.runs import Plan, afollow, entries, every_step, finish, fork, replay, run_id, steps


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


@sqlite_here("database")
def test_calls_of_an_unordered_scope_are_told_apart_by_what_they_ask(dbos: None) -> None:
    questions = {"one": "x", "two": "y", "three": "z"}

    def plan_in(order: list[str]) -> Plan:
        def plan() -> Any:
            turns = Turns(order)
            with joined("work") as scope, scope.child("all", sequential=False).entered() as here:

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


@sqlite_here("database")
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


@sqlite_here("database")
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


@only_sqlite
def test_a_step_beside_a_run_is_warned_of_before_any_crash(
    dbos: None, caplog: pytest.LogCaptureFixture
) -> None:
    async def plan() -> Any:
        async def a_run() -> Any:
            with joined("work") as scope:
                return await acall(scope, "a")

        before = await abare("before")
        first = await a_run()
        between = await abare("between")
        assert "of its own" not in caplog.text
        return [before, first, between, *await asyncio.gather(a_run(), abare("beside"))]

    finish(plan, run_id(), afollow)
    assert caplog.text.count("made a DBOS step of its own while an agent was at work") == 1


@pytest.mark.some_entries
@sqlite_here("database")
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
    replays_from_steps(run, expected)


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
