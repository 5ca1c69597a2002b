"""What of a record is read: when a run is opened, and when a call is asked for."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS
from dbos._serialization import DBOSPortableJSON

from crewai_dbos import JournalCorruptError
from crewai_dbos._dbos_seam.instance import engine
from crewai_dbos._dbos_seam.rows import as_json
from crewai_dbos._journal import pages
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.head import LENGTH, PIN, head_in, head_of
from crewai_dbos._journal.payload import sealed, success
from crewai_dbos._journal.run_scope import enclosing
from crewai_dbos._journal.scope import Scope
from crewai_dbos._threads import in_event_loop
from crewai_dbos.encryption import EncryptedSerializer, generate_key
from journal.helpers import call, only_sqlite, work
from support.databases import sqlite_here
from support.runs import Plan, Rows, afollow, entries, finish, fork, replay, run_id

SIZE = 5_000
"""Of a result that is not read with the others."""

AT_MOST = 2 + 1000 * (SIZE + 200) // pages.PAGE
"""Statements for a thousand of them."""


class Reads:
    """What is read of entries."""

    statements = decoded = 0

    def begin(self) -> None:
        self.statements = self.decoded = 0

    def see_statement(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        # DBOS asks for steps one by one.
        asks = statement.startswith("SELECT") and "operation_outputs" in statement
        self.statements += asks and ("CASE" in statement or "IN (" in statement)

    def decode(self, text: str | None) -> Any:
        self.decoded += 1
        return as_json(text)


@pytest.fixture
def reads(dbos: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    found = Reads()
    monkeypatch.setattr(pages, "as_json", found.decode)
    sa.event.listen(engine(), "before_cursor_execute", found.see_statement)
    yield found
    sa.event.remove(engine(), "before_cursor_execute", found.see_statement)


def asking(*what: str) -> Plan:
    """A plan that asks for a call at each of these paths; what is left is not missed."""

    def plan() -> list[str]:
        scope = enclosing()
        assert scope is not None
        return [call(Scope(scope.journal, path), "a", lambda: "x" * SIZE) for path in what]

    return plan


def long_run(rows: Rows, names: list[str]) -> str:
    """A run that has recorded the same long result under each of `names`."""
    run = run_id()
    finish(asking("work#1"), run)
    rows.repeat(run, "work#1/a#1", names)
    work.done.clear()
    return run


def test_a_result_is_read_when_it_is_asked_for(reads: Reads, rows: Rows) -> None:
    run = long_run(rows, [f"work#1/a#{n}" for n in range(1, 1001)])
    reads.begin()
    assert replay(run, asking(*["work#1"] * 10)) == ["x" * SIZE] * 10
    assert (reads.statements, reads.decoded) == (2, 10)
    reads.begin()
    assert len(replay(run, asking(*["work#1"] * 1000))) == 1000
    assert reads.statements <= AT_MOST
    assert reads.decoded == 1000
    assert work.done.total() == 0


@sqlite_here("database")
def test_short_results_are_read_with_their_names(reads: Reads) -> None:
    def plan() -> list[Any]:
        scope = enclosing()
        assert scope is not None
        return [call(scope.child("work"), "a"), call(scope.child("work"), "b")]

    run = run_id()
    expected = finish(plan, run)
    reads.begin()
    assert replay(run) == expected
    assert (reads.statements, reads.decoded) == (1, 2)


@sqlite_here("database")
def test_what_was_at_work_side_by_side_is_read_one_after_the_other(
    reads: Reads, rows: Rows
) -> None:
    """40 branches, each with entries among those of all the others."""
    every = [(f"part#{part}", n) for n in range(1, 26) for part in range(1, 41)]
    run = long_run(rows, [f"{path}/a#{n}" for path, n in every])
    for paths in (sorted(path for path, _ in every), [path for path, _ in every]):
        reads.begin()
        assert len(replay(run, asking(*paths))) == 1000
        assert reads.statements <= AT_MOST
    assert work.done.total() == 0


@sqlite_here("database")
def test_what_is_held_of_a_run_does_not_grow_with_it(
    reads: Reads, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "MOST_HELD", 1_000_000)
    run = long_run(rows, [f"work#1/a#{n}" for n in range(1, 2001)])

    def plan() -> int:
        scope = enclosing()
        assert scope is not None
        return sum(len(call(Scope(scope.journal, "work#1"), "a")) for _ in range(2000))

    tracemalloc.start()
    try:
        assert fork(run, 2001, plan) == 2000 * SIZE
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2000 * SIZE / 2


@only_sqlite
def test_what_is_held_no_more_is_read_again(
    reads: Reads, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "MOST_HELD", 1)
    monkeypatch.setattr(pages, "PAGE", 10_000)
    every = [f"part#{part}" for _ in range(5) for part in range(1, 6)]
    numbers = {path: iter(range(1, 6)) for path in every}
    run = long_run(rows, [f"{path}/a#{next(numbers[path])}" for path in every])
    assert replay(run, asking(*every)) == ["x" * SIZE] * 25
    assert work.done.total() == 0


@sqlite_here("database")
def test_a_page_that_is_held_no_more_is_not_read_whole_again(
    reads: Reads, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many branches are replayed side by side, and what they have together is not held."""
    monkeypatch.setattr(pages, "MOST_HELD", 1)
    read: list[int] = []
    texts = pages.row_texts

    def row_texts(run: str, step_ids: list[int]) -> Any:
        read.extend(step_ids)
        return texts(run, step_ids)

    monkeypatch.setattr(pages, "row_texts", row_texts)
    every = [f"part#{part}" for _ in range(100) for part in range(1, 4)]
    numbers = {path: iter(range(1, 101)) for path in every}
    run = long_run(rows, [f"{path}/a#{next(numbers[path])}" for path in every])
    assert replay(run, asking(*every)) == ["x" * SIZE] * 300
    assert len(read) < 2 * 300


@sqlite_here("database")
def test_an_event_loop_does_not_wait_for_what_is_read(
    reads: Reads, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = long_run(rows, ["work#1/a#1"])
    on_loops: list[bool] = []
    texts = pages.row_texts

    def row_texts(run: str, step_ids: list[int]) -> Any:
        on_loops.append(in_event_loop())
        return texts(run, step_ids)

    monkeypatch.setattr(pages, "row_texts", row_texts)

    async def plan() -> Any:
        scope = enclosing()
        assert scope is not None
        return len(await work.acall(scope.child("work"), "a", long))

    async def long() -> str:
        return "x" * SIZE

    run = run_id()
    assert finish(plan, run, afollow) == SIZE
    assert replay(run) == SIZE
    assert on_loops == [False]
    assert work.done.total() == 1


def test_a_row_without_text_does_not_end_a_run_that_does_not_ask_for_it(rows: Rows) -> None:
    """As is one of another format: it is passed over with the work that has ended."""

    def plan() -> Any:
        def inside() -> Any:
            here = enclosing()
            assert here is not None
            return call(here, "a")

        scope = enclosing()
        assert scope is not None
        return scope.group(Call("whole", kind="work"), inside)

    run = run_id()
    expected = finish(plan, run)
    inner, _ = entries(run)
    rows.damage(run, inner, None)
    assert replay(run) == expected


def test_a_long_entry_in_another_form_is_read_when_the_run_is_opened(
    reads: Reads, rows: Rows
) -> None:
    """JSON says the same in many ways: another tool may have written the row anew."""
    run = long_run(rows, [f"work#1/a#{n}" for n in range(1, 4)])
    output, _, _ = rows.one(run, "work#1/a#2")
    assert output is not None
    rows.damage(run, "work#1/a#2", json.dumps(dict(reversed(json.loads(output).items()))))
    assert replay(run, asking(*["work#1"] * 3)) == ["x" * SIZE] * 3
    assert work.done.total() == 0


@sqlite_here("database")
def test_an_entry_that_is_gone_when_it_is_asked_for_ends_the_run(reads: Reads, rows: Rows) -> None:
    run = long_run(rows, [f"work#1/a#{n}" for n in range(1, 4)])

    def plan() -> Any:
        scope = enclosing()
        assert scope is not None
        here = Scope(scope.journal, "work#1")
        rows.forget(str(DBOS.workflow_id), "work#1/a#2")
        return [call(here, "a"), call(here, "a"), call(here, "a")]

    with pytest.raises(JournalCorruptError, match=r"work#1/a#2 is not there any more"):
        replay(run, plan)
    assert work.done.total() == 0


HISTORIES = sorted((Path(__file__).parents[1] / "histories").glob("*/*.json"))


@pytest.mark.parametrize("file", HISTORIES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_what_releases_have_written_is_known_by_its_beginning(file: Path) -> None:
    for run in json.loads(file.read_text())["runs"].values():
        for step in run["steps"]:
            stored = as_json(step["output"])
            whole = head_of(stored)
            if whole is None or whole.kind == PIN:
                continue
            assert head_in(step["output"][:LENGTH]) == whole, step["output"]


@pytest.mark.parametrize("serializer", [None, EncryptedSerializer({"k": generate_key()})])
@pytest.mark.parametrize("key_id", [None, "k"])
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("model", [None, 'a "model"'])
@pytest.mark.parametrize("used", [(), [("a", {"total_tokens": 3}), ('"b"', {})]])
def test_what_is_written_is_known_by_its_beginning(
    serializer: Any, key_id: str | None, background: bool, model: str | None, used: Any
) -> None:
    call = Call("a", kind="work", request={"x": 1}, background=background, model=model)
    for made in (call, replace(call, request={})):
        payload = {**success(made, "x" * LENGTH, seconds=1e-4, used=used), "attempts": 2}
        text = DBOSPortableJSON.serialize(sealed(payload, key_id, serializer))
        head = head_in(text[:LENGTH])
        assert head is not None
        assert head == head_of(as_json(text))
        assert head.key_id == key_id
