"""Where a run can be killed, read off the journal of a run that was not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dbos import DBOSClient

from crash.faults import RESULT

LLM, TOOL = "llm", "tool"


@dataclass(frozen=True)
class Row:
    """One recorded call."""

    name: str
    kind: str

    def __str__(self) -> str:
        return self.name.rpartition("/")[2]


@dataclass(frozen=True)
class Position:
    """A moment of one call; `faults.install` says which moments there are."""

    row: Row
    moment: str

    def __str__(self) -> str:
        return f"{self.row} {self.moment}"


_RESULT_ROW = Row(RESULT, RESULT)
_MOMENTS = ("before", "inside", "done", "recorded")


def positions(rows: Sequence[Row]) -> Iterator[Position]:
    """Every moment of every row, and the two around the recording of the run's result."""
    for row in rows:
        for moment in _MOMENTS:
            yield Position(row, moment)
    for moment in ("done", "recorded"):
        yield Position(_RESULT_ROW, moment)


def journal(database_url: str, run_id: str) -> list[Row]:
    """The rows of a run in the database, seen from outside of every process that carries it out."""
    client = DBOSClient(system_database_url=database_url)
    try:
        steps = client.list_workflow_steps(run_id)
    finally:
        client.destroy()
    return [Row(step["function_name"], _kind(step["output"])) for step in steps]


def _kind(output: object) -> str:
    return str(output["kind"]) if isinstance(output, dict) else "?"
