"""A call whose result can't be stored is made once all the same."""

from __future__ import annotations

from typing import Any

import pytest

from crewai_dbos import UnstorableValueError
from crewai_dbos._journal.joining import joined
from journal.helpers import QUICK, call, only_sqlite, work
from support.runs import finish, replay, run_id


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
def test_what_a_call_did_that_can_not_be_told_is_an_error_that_is_recorded(dbos: None) -> None:
    """Raised past DBOS it would have the call made again, and paid again."""

    def plan() -> Any:
        with joined("work") as scope:
            try:
                return call(scope, "a", lambda: 1, config=QUICK, collect=lambda: {"usage": [None]})
            except AttributeError as error:
                return str(error)

    run = run_id()
    told = finish(plan, run)
    assert "items" in told
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
