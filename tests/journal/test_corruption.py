"""Rows that can't be read."""

from __future__ import annotations

from typing import Any

import pytest

from crewai_dbos import JournalCorruptError, SealedError
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.joining import joined
from crewai_dbos._journal.run_scope import enclosing
from journal.helpers import as_crewai_does, call, shape, work
from support.databases import sqlite_here
from support.runs import Rows, finish, fork, replay, run_id

DAMAGED = {
    "not JSON": "garbage",
    "nothing": None,
    "another kind of JSON": '"text"',
    "a newer version": '{"v":3,"kind":"work","result":1}',
    "sealed by somebody": '{"v":2,"kind":"work","sealed":{"$sealed":"x","by":"y"}}',
    "no kind": '{"v":1,"result":1}',
    "no result": '{"v":1,"kind":"work"}',
    "an unknown type": '{"v":1,"kind":"work","result":{"$later":1}}',
    "a class that is gone": '{"v":1,"kind":"work","result":{"$model":"a:B","fields":{},"set":[]}}',
    "half a model": '{"v":1,"kind":"work","result":{"$model":"journal.helpers:Pet"}}',
    "a class that is not known": '{"v":1,"kind":"work","result":{"$local":"a:B","data":{}}}',
    "half an error": '{"v":1,"kind":"work","error":{}}',
    "an odd error": '{"v":1,"kind":"work","error":{"type":1,"message":2}}',
    "an odd request": '{"v":1,"kind":"work","result":1,"request":["x"]}',
    "odd ids": '{"v":1,"kind":"work","result":1,"ids":"x"}',
}


@sqlite_here("database")
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
    stopped = SealedError if name == "sealed by somebody" else JournalCorruptError
    with pytest.raises(stopped, match=r"work#1/b#1"):
        replay(run)
    assert work.done.total() == 0
    # As the message says: from before that entry.
    assert shape(fork(run, 2)) == ["a ", "b ", "c "]


@pytest.mark.parametrize("damage", ["sealed by somebody", "an unknown type"])
def test_an_entry_inside_a_group_that_can_not_be_read_stops_the_run(
    dbos: None, rows: Rows, damage: str
) -> None:
    """Of a request inside, what it used is counted although it is not made again."""

    def plan() -> Any:
        with joined("work") as scope:

            def inside() -> Any:
                here = enclosing()
                assert here is not None
                request = Call("llm", kind="llm", collect=lambda: {"usage": [{"total_tokens": 3}]})
                return here.run(request, lambda: work.do("request"))

            got = []
            with as_crewai_does():
                got.append(scope.group(Call("sum", kind="work"), inside, sequential=True))
            return [*got, call(scope, "after")]

    run = run_id()
    assert finish(plan, run) == ["request 1", "after 1"]
    text = DAMAGED[damage] if damage == "sealed by somebody" else BAD_USAGE
    assert text is not None
    rows.damage(run, "work#1/sum#1/llm#1", text.replace('"work"', '"llm"'))
    work.done.clear()
    with pytest.raises((SealedError, JournalCorruptError), match=r"work#1/sum#1/llm#1"):
        replay(run)
    assert work.done.total() == 0


def test_an_entry_inside_a_group_that_holds_nothing_is_not_asked_for(
    dbos: None, rows: Rows
) -> None:
    def plan() -> Any:
        with joined("work") as scope:

            def inside() -> Any:
                here = enclosing()
                assert here is not None
                return call(here, "a")

            return [scope.group(Call("sum", kind="work"), inside, sequential=True)]

    run = run_id()
    assert finish(plan, run) == ["a 1"]
    rows.damage(run, "work#1/sum#1/a#1", None)
    assert replay(run) == ["a 1"]


BAD_USAGE = '{"v":1,"kind":"llm","result":1,"extra":{"$later":1}}'
