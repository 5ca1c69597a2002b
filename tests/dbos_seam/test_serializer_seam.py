"""Which serializer a row is written with (read at 3.4.0)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from dbos import (
    DBOS,
    Serializer,
)
from dbos._serialization import DBOSPortableJSON

from crewai_dbos._dbos_seam.serializer import (
    DBOSDefaultSerializer,
    application_serializer,
)
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.joining import joined
from support.launching import launched
from support.runs import Rows, finish, fork, replay, run_id


class Shouting(Serializer):
    """A serializer of the user's: JSON in capitals."""

    def serialize(self, data: Any) -> str:
        return json.dumps(data, default=str).upper()

    def deserialize(self, serialized_data: str) -> Any:
        return json.loads(serialized_data.lower())

    def name(self) -> str:
        return "shouting"


class Upper(Shouting):
    """One that kept the name DBOS gives to those without."""

    def name(self) -> str:
        return "custom_serializer"


@DBOS.step()
def bare() -> str:
    return "bare"


def entries_and_steps() -> list[str]:
    with joined("work") as scope:
        entry = scope.run(Call("a", kind="work"), lambda: "entry")
        return [entry, bare()]


@pytest.fixture
def rows(url: str) -> Iterator[Rows]:
    rows = Rows(url)
    yield rows
    rows.close()


def test_an_entry_is_json_that_anybody_can_read(url: str, rows: Rows) -> None:
    run = run_id()
    with launched(url):
        assert finish(entries_and_steps, run) == ["entry", "bare"]
        output, error, serialization = rows.one(run, "work#1/a#1")
        assert serialization == "portable_json"
        assert error is None
        assert json.loads(str(output))["result"] == "entry"
        pin, _, serialization = rows.one(run, "work#1/dbos#1")
        assert serialization == "portable_json"
        assert json.loads(str(pin))["ids"] == 1


def test_a_failed_call_is_json_too_and_no_error_of_dbos(url: str, rows: Rows) -> None:
    def plan() -> str:
        with joined("work") as scope, pytest.raises(ZeroDivisionError):
            scope.run(Call("a", kind="work"), lambda: 1 / 0)
        return "caught"

    run = run_id()
    with launched(url):
        assert finish(plan, run) == "caught"
        output, error, serialization = rows.one(run, "work#1/a#1")
        assert (error, serialization) == (None, "portable_json")
        assert json.loads(str(output))["error"]["type"] == "builtins:ZeroDivisionError"


@pytest.mark.parametrize("serializer", [None, Shouting(), Upper()], ids=lambda s: type(s).__name__)
def test_the_rows_of_the_user_keep_the_applications_format(
    url: str, rows: Rows, serializer: Serializer | None
) -> None:
    run = run_id()
    config = {} if serializer is None else {"serializer": serializer}
    expected = "py_pickle" if serializer is None else serializer.name()
    with launched(url, **config):
        first = finish(entries_and_steps, run)
        output, _, serialization = rows.one(run, "bare")
        assert serialization == expected
        if serializer is not None:
            assert output == '"BARE"'
        assert rows.one(run, "work#1/a#1")[2] == "portable_json"
        assert [text.lower() for text in replay(run)] == first
        assert [text.lower() for text in fork(run, 2)] == first
    # Also by another process, which has not written an entry yet.
    with launched(url, **config):
        assert [text.lower() for text in replay(run)] == first


def test_what_a_recorded_call_stores_itself_is_in_the_applications_format(url: str) -> None:
    """Portable JSON would make a list of the set."""

    def body() -> str:
        DBOS.set_event("seen", {1, 2})
        DBOS.write_stream("stream", {3})
        return "done"

    async def abody() -> str:
        await DBOS.set_event_async("seen later", {4})
        return "done"

    def plan() -> list[str]:
        with joined("work") as scope:
            made = scope.run(Call("a", kind="work"), body)
            return [made, asyncio.run(scope.arun(Call("b", kind="work"), abody))]

    run = run_id()
    with launched(url):
        assert finish(plan, run) == ["done", "done"]
        assert DBOS.get_event(run, "seen") == {1, 2}
        assert DBOS.get_event(run, "seen later") == {4}
        assert next(iter(DBOS.read_stream(run, "stream"))) == {3}


def test_the_applications_serializer_is_one_of_its_own_or_none(url: str) -> None:
    assert application_serializer() is None
    with launched(url):
        assert application_serializer() is None
    for own in (Shouting(), DBOSDefaultSerializer, DBOSPortableJSON):
        with launched(url, serializer=own):
            found = application_serializer()
            assert found is (own if isinstance(own, Shouting) else None)
