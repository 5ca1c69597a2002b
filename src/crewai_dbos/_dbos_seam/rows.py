"""What DBOS has stored of a run, a row for each step.

DBOS's own listing unpickles every row that says it is a pickle, the user's too. The journal needs
only names and numbers of those, and its own rows are JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from dbos import DBOSClient
from dbos._serialization import DBOSPortableJSON
from dbos._sys_db import db_retry

from crewai_dbos._dbos_seam.instance import system_database
from crewai_dbos._threads import off_the_loop


@dataclass(frozen=True)
class RecordedRow:
    """A row of a step.

    Attributes:
        step_id: Its number in the run.
        name: What the step is called.
        output: The JSON data in it; None where it holds something else.
        ended_ms: When it ended, in milliseconds since 1970, where that is known.
    """

    step_id: int
    name: str
    output: Any
    ended_ms: int | None = None


def recorded_rows(run_id: str, client: DBOSClient | None = None) -> list[RecordedRow]:
    """The steps that are recorded of a run, in the order of their numbers.

    Args:
        run_id: The run's workflow id.
        client: Of the database that it is in; None for that of the launched instance.
    """
    database = system_database() if client is None else client._sys_db
    return off_the_loop(lambda: _recorded_rows(database, run_id))


@dataclass(frozen=True)
class RowHead:
    """A row of a step, as far as it is read before its output is asked for.

    Attributes:
        step_id: Its number in the run.
        name: What the step is called.
        size: How long the JSON text in it is, as the database counts.
        text: That text, or its beginning; None where the row holds something else.
        is_whole: Whether it is all of it.
    """

    step_id: int
    name: str
    size: int
    text: str | None
    is_whole: bool


def row_heads(run_id: str, *, length: int, short: int, most: int) -> list[RowHead]:
    """The steps that are recorded of a run, in the order of their numbers.

    Args:
        run_id: The run's workflow id.
        length: How much is wanted of the beginnings of texts.
        short: Texts up to this size are wanted whole,
        most: until there is so much of them.
    """
    database = system_database()
    return off_the_loop(lambda: _row_heads(database, run_id, length, short, most))


def row_texts(run_id: str, step_ids: Sequence[int]) -> dict[int, tuple[str, str]]:
    """Names and JSON texts of those of `step_ids` that the run has, by number."""
    database = system_database()
    return off_the_loop(lambda: _row_texts(database, run_id, step_ids))


def recorded_times(run_id: str) -> dict[str, int]:
    """When the steps of a run were recorded, by name, in milliseconds since 1970."""
    database = system_database()
    return off_the_loop(lambda: _recorded_times(database, run_id))


@db_retry()
def _recorded_times(database: Any, run_id: str) -> dict[str, int]:
    steps = database.tables.operation_outputs
    query = sa.select(steps.c.function_name, steps.c.completed_at_epoch_ms)
    with database._observability_query() as connection:
        rows = connection.execute(query.where(*database._wf(steps, run_id))).fetchall()
    return {name: at for name, at in rows if at is not None}


@db_retry()
def _recorded_rows(database: Any, run_id: str) -> list[RecordedRow]:
    with database._observability_query() as connection:
        return rows_of(database, connection, run_id)


@db_retry()
def _row_heads(database: Any, run_id: str, length: int, short: int, most: int) -> list[RowHead]:
    steps = database.tables.operation_outputs
    is_json = steps.c.serialization == DBOSPortableJSON.name()
    # On Postgres this is known without reading the text.
    size_of = sa.func.length if database._is_sqlite else sa.func.octet_length
    size = sa.case((is_json, size_of(steps.c.output)), else_=None)
    text = sa.case(
        (size <= short, steps.c.output),
        (is_json, sa.func.substr(steps.c.output, 1, length)),
        else_=None,
    )
    query = sa.select(steps.c.function_id, steps.c.function_name, size, text)
    query = query.where(*database._wf(steps, run_id)).order_by(steps.c.function_id)
    found, kept = [], 0
    with database._observability_query(capped=False) as connection:
        for rows in connection.execute(query).partitions(_AT_ONCE):
            for step_id, name, characters, begins in rows:
                is_whole = begins is not None and characters <= short
                if is_whole and (kept := kept + characters) > most:
                    is_whole, begins = False, begins[:length]
                found.append(RowHead(step_id, name, characters or 0, begins, is_whole))
    return found


_AT_ONCE = 1000
"""Rows that are looked at together."""


@db_retry()
def _row_texts(database: Any, run_id: str, step_ids: Sequence[int]) -> dict[int, tuple[str, str]]:
    steps = database.tables.operation_outputs
    query = sa.select(steps.c.function_id, steps.c.function_name, steps.c.output).where(
        *database._wf(steps, run_id),
        steps.c.function_id.in_(step_ids),
        steps.c.serialization == DBOSPortableJSON.name(),
    )
    with database._observability_query(capped=False) as connection:
        rows = connection.execute(query).fetchall()
    return {step_id: (name, text) for step_id, name, text in rows if text is not None}


def rows_of(database: Any, connection: sa.Connection, run_id: str) -> list[RecordedRow]:
    """As `recorded_rows`, as a transaction sees them.

    Args:
        database: DBOS's system database.
        connection: Of the transaction.
        run_id: The run's workflow id.
    """
    steps = database.tables.operation_outputs
    columns = (
        steps.c.function_id,
        steps.c.function_name,
        steps.c.serialization,
        steps.c.output,
        steps.c.completed_at_epoch_ms,
    )
    query = sa.select(*columns).where(*database._wf(steps, run_id)).order_by(steps.c.function_id)
    rows = connection.execute(query).fetchall()
    return [
        RecordedRow(step_id, name, as_json(output) if is_json else None, ended_ms)
        for step_id, name, format, output, ended_ms in rows
        for is_json in [format == DBOSPortableJSON.name()]
    ]


def as_json(text: str | None) -> Any:
    """The JSON data in `text`; None if it is none."""
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None


def operation_name(name: str) -> str:
    """One spelling for what DBOS stores as ``DBOS.setEvent`` and starts as ``set_event``."""
    own = name.startswith("DBOS.") or name in _STARTED_AS
    return name.removeprefix("DBOS.").replace("_", "").lower() if own else name


_STARTED_AS = {"sleep", "recv", "send", "send_bulk", "set_event", "write_stream", "close_stream"}
