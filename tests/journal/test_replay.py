"""What a run recorded is replayed: results, errors, summaries, what a call left behind."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import httpx
import openai
import pytest
from dbos import DBOS

from crewai_dbos._journal.call import Call
from crewai_dbos._journal.joining import joined
from crewai_dbos._journal.scope import Scope
from journal.helpers import Pet, acall, call, shape, work
from support.databases import sqlite_here
from support.runs import afollow, entries, finish, fork, replay, result, run_id


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


@sqlite_here("database")
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


@sqlite_here("database")
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
            return [scope.group(whole, inside, sequential=True), call(scope, "c")]

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


@sqlite_here("database")
def test_a_summary_that_fails_is_recorded_as_failed(dbos: None) -> None:
    def plan() -> Any:
        with joined("work") as scope:

            def inside() -> Any:
                raise KeyError(work.do("inside"))

            try:
                return scope.group(Call("sum", kind="work"), inside)
            except KeyError as error:
                return error.args[0]

    run = run_id()
    assert finish(plan, run) == "inside 1"
    assert replay(run) == "inside 1"


@sqlite_here("database")
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


@sqlite_here("database")
def test_a_call_made_in_a_running_event_loop_is_recorded_too(dbos: None) -> None:
    async def plan() -> list[Any]:
        with joined("work") as scope:
            return [call(scope, "a"), await acall(scope, "b"), call(scope, "c")]

    run = run_id()
    assert finish(plan, run, afollow) == ["a 1", "b 1", "c 1"]
    assert replay(run) == ["a 1", "b 1", "c 1"]


@sqlite_here("database")
def test_a_coroutine_function_can_be_a_sync_call(dbos: None) -> None:
    async def body() -> str:
        await asyncio.sleep(0)
        return work.do("inside")

    def plan() -> Any:
        with joined("work") as scope:
            return scope.run(Call("a", kind="work"), body)

    run = run_id()
    assert finish(plan, run) == "inside 1"
    assert replay(run) == "inside 1"
