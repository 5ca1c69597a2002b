"""A call whose result can't be stored is made once all the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from crewai_dbos import UnstorableValueError
from crewai_dbos._journal.call import Call
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


class Sulky:
    """Has no text, and no JSON form."""

    def __repr__(self) -> str:
        raise LookupError("not now")


def deep() -> list[Any]:
    found: list[Any] = []
    for _ in range(5_000):
        found = [found]
    return found


def made(value: Any) -> Any:
    work.do("a")
    return value


@dataclass
class Moody:
    """A field that does something else each time."""

    name: str = "moody"

    def __getattribute__(self, name: str) -> Any:
        if name == "name":
            raise LookupError("not now")
        return super().__getattribute__(name)


@only_sqlite
@pytest.mark.parametrize("way", ["call", "group"])
@pytest.mark.parametrize("value", [deep(), Sulky(), {Sulky(), Sulky()}, Moody.__new__(Moody)],
                         ids=["deep", "no text", "no order", "no fields"])  # fmt: skip
def test_what_has_no_text_either_is_an_error_that_is_recorded(
    dbos: None, value: Any, way: str
) -> None:
    def plan() -> Any:
        with joined("work") as scope:
            asked = Call("a", kind="tool", config=QUICK, as_text=str)
            try:
                if way == "group":
                    return type(scope.group(asked, lambda: made(value))).__name__
                return type(call(scope, "a", lambda: value, as_text=str, config=QUICK)).__name__
            except Exception as error:
                return type(error).__name__

    run = run_id()
    told = finish(plan, run)
    assert replay(run) == told
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
