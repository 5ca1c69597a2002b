"""Other code than the run was recorded with."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from crewai_dbos import DriftError
from crewai_dbos._journal.joining import joined
from journal.helpers import (
    abare,
    as_crewai_does,
    call,
    calling,
    only_sqlite,
    operations,
    work,
)
from support.runs import Plan, finish, replay, run_id


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
    with pytest.raises(DriftError, match=rf"next comes work#1/{expected}#1"):
        replay(run, calling(now))
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
