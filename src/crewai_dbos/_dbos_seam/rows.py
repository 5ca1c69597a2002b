"""What DBOS has stored of a run, a row for each step.

DBOS's own listing unpickles every row that says it is a pickle, the user's too. The journal needs
only names and numbers of those, and its own rows are JSON.
"""

from __future__ import annotations

import json
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
    """

    step_id: int
    name: str
    output: Any


def recorded_rows(run_id: str, client: DBOSClient | None = None) -> list[RecordedRow]:
    """The steps that are recorded of a run, in the order of their numbers.

    Args:
        run_id: The run's workflow id.
        client: Of the database that it is in; None for that of the launched instance.
    """
    database = system_database() if client is None else client._sys_db
    return off_the_loop(lambda: _recorded_rows(database, run_id))


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


def rows_of(database: Any, connection: sa.Connection, run_id: str) -> list[RecordedRow]:
    """As `recorded_rows`, as a transaction sees them.

    Args:
        database: DBOS's system database.
        connection: Of the transaction.
        run_id: The run's workflow id.
    """
    steps = database.tables.operation_outputs
    columns = (steps.c.function_id, steps.c.function_name, steps.c.serialization, steps.c.output)
    query = sa.select(*columns).where(*database._wf(steps, run_id)).order_by(steps.c.function_id)
    rows = connection.execute(query).fetchall()
    return [
        RecordedRow(step_id, name, _json(output) if format == DBOSPortableJSON.name() else None)
        for step_id, name, format, output in rows
    ]


def _json(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None


def operation_name(name: str) -> str:
    """One spelling for what DBOS stores as ``DBOS.setEvent`` and starts as ``set_event``."""
    own = name.startswith("DBOS.") or name in _STARTED_AS
    return name.removeprefix("DBOS.").replace("_", "").lower() if own else name


_STARTED_AS = {"sleep", "recv", "send", "send_bulk", "set_event", "write_stream", "close_stream"}
