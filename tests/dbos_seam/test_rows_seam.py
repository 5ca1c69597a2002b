"""The rows of a run, as DBOS stores them (read at 3.4.0)."""

from __future__ import annotations

import asyncio

import sqlalchemy as sa
from dbos import (
    DBOS,
    SetWorkflowID,
)

from crewai_dbos._dbos_seam.rows import (
    RecordedRow,
    as_json,
    recorded_rows,
    row_heads,
    row_texts,
)
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.joining import joined
from support.launching import launched


def test_steps_are_rows_of_these_columns(url: str) -> None:
    """What operators, our messages and our tests look for."""
    with launched(url):
        columns = {
            c["name"] for c in sa.inspect(sa.create_engine(url)).get_columns("operation_outputs")
        }
    assert {"workflow_uuid", "function_id", "function_name", "output", "error"} <= columns
    assert "serialization" in columns


@DBOS.step()
def pickled(word: str) -> tuple[str]:
    return (word,)


@DBOS.workflow(name="seam_reads_rows")
def makes_rows() -> None:
    with joined("work") as scope:
        scope.run(Call("a", kind="work"), lambda: {"said": "ä"})
    pickled("theirs")


def test_rows_are_those_that_dbos_lists_and_only_json_is_read(database_url: str) -> None:
    with launched(database_url):
        with SetWorkflowID("r"):
            makes_rows()
        listed = DBOS.list_workflow_steps("r")
        found = recorded_rows("r")
        assert [(row.step_id, row.name) for row in found] == [
            (step["function_id"], step["function_name"]) for step in listed
        ]
        by_name = {row.name: row.output for row in found}
        assert by_name["work#1/a#1"]["result"] == {"said": "ä"}
        assert by_name["pickled"] is None
        assert listed[-1]["output"] == ("theirs",)
        assert recorded_rows("another") == []


def test_rows_are_read_where_an_event_loop_runs(url: str) -> None:
    async def read() -> list[RecordedRow]:
        return recorded_rows("r")

    with launched(url):
        with SetWorkflowID("r"):
            makes_rows()
        assert asyncio.run(read()) == recorded_rows("r")


def test_rows_are_read_in_two_goes(database_url: str) -> None:
    with launched(database_url):
        with SetWorkflowID("r"):
            makes_rows()
        whole = {row.step_id: row for row in row_heads("r", length=9, short=1000, most=1000)}
        cut = row_heads("r", length=9, short=1, most=1000)
        spent = row_heads("r", length=9, short=1000, most=1)
        stored = {row.step_id: row.output for row in recorded_rows("r")}
        assert [row.name for row in cut] == [row.name for row in recorded_rows("r")]
        for row in cut:
            if stored[row.step_id] is None:
                assert (row.size, row.text, row.is_whole) == (0, None, False)
                continue
            text = whole[row.step_id].text
            assert text is not None
            assert as_json(text) == stored[row.step_id]
            assert (row.text, row.is_whole) == (text[:9], False)
            assert whole[row.step_id].is_whole
            assert row_texts("r", [row.step_id]) == {row.step_id: (row.name, text)}
        assert cut == spent
        assert row_texts("another", [1, 2]) == {}
