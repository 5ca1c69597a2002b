"""What runs were given, returned and recorded: texts, as they are stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from dbos._serialization import DBOSPortableJSON

from crewai_dbos._dbos_seam.database import Database, chunks
from crewai_dbos._dbos_seam.rows import as_json
from crewai_dbos._dbos_seam.stored_runs import SUCCESS, Condition, has_id


@dataclass(frozen=True)
class StoredError:
    """The error that a run has ended with: a text, which a serializer has written."""

    text: str
    serializer: str | None

    @property
    def is_json(self) -> bool:
        return self.serializer == DBOSPortableJSON.name()


@dataclass(frozen=True)
class StoredStep:
    """The row of a step. Times are milliseconds since 1970.

    Attributes:
        step_id: Its number in the run.
        name: What the step is called.
        output: The text in it, if it is JSON.
        error: What DBOS has stored of its error; an entry of ours says so itself.
        child: The workflow that it has started.
        started_ms: When it began.
        ended_ms: When it ended.
    """

    step_id: int
    name: str
    output: str | None
    error: StoredError | None
    child: str | None
    started_ms: int | None
    ended_ms: int | None


def inputs(database: Database, connection: sa.Connection, run_ids: Iterable[str]) -> dict[str, str]:
    """The inputs of those of these runs where they are JSON."""
    stored = database.system.tables.workflow_input
    is_json = database.runs.c.serialization == DBOSPortableJSON.name()
    found = _texts(database, connection, run_ids, stored.c.inputs, is_json)
    return {run_id: text for run_id, text, _ in found if text}


def first_argument(inputs: str) -> Any:
    """What a workflow was given first, as JSON data, of inputs that are JSON; None if nothing."""
    given = as_json(inputs)
    arguments = given.get("positionalArgs") if isinstance(given, Mapping) else None
    return arguments[0] if isinstance(arguments, list) and arguments else None


def order_of(database: Database, connection: sa.Connection, run_id: str) -> Any:
    """As `first_argument`, of a run by its id."""
    return first_argument(inputs(database, connection, [run_id]).get(run_id, "null"))


def outputs(
    database: Database, connection: sa.Connection, run_ids: Iterable[str]
) -> dict[str, str]:
    """What those of these runs have returned that have ended well, where that is JSON."""
    stored, runs = database.system.tables.workflow_output, database.runs.c
    wanted = (runs.status == SUCCESS, runs.serialization == DBOSPortableJSON.name())
    found = _texts(database, connection, run_ids, stored.c.output, *wanted)
    return {run_id: text for run_id, text, _ in found}


def errors(
    database: Database, connection: sa.Connection, run_ids: Iterable[str]
) -> dict[str, StoredError]:
    """The errors of those of these runs that have ended with one."""
    stored = database.system.tables.workflow_output
    found = _texts(database, connection, run_ids, stored.c.error)
    return {run_id: StoredError(text, serializer) for run_id, text, serializer in found}


def _texts(
    database: Database,
    connection: sa.Connection,
    run_ids: Iterable[str],
    column: sa.Column[Any],
    *wanted: Condition,
) -> Iterator[tuple[str, str, str | None]]:
    """The run, what is in `column` of it, and the name of its serializer.

    DBOS had that column in the rows of runs, before it had a table for it.
    """
    runs, stored = database.runs, column.table
    text = sa.func.coalesce(column, runs.c[column.name])
    for some in chunks(run_ids):
        query = (
            sa.select(runs.c.workflow_uuid, text, runs.c.serialization)
            .select_from(runs.outerjoin(stored, database.system._wf_join(runs, stored)))
            .where(has_id(database, some), text.is_not(None), *wanted)
        )
        yield from (tuple(row) for row in connection.execute(query))


def with_usage(
    database: Database, connection: sa.Connection, run_ids: Iterable[str]
) -> Iterator[tuple[str, str, int | None]]:
    """The run, the JSON and the end of each step that may have token counts in it."""
    steps = database.system.tables.operation_outputs
    for some in chunks(run_ids):
        query = sa.select(
            steps.c.workflow_uuid, steps.c.output, steps.c.completed_at_epoch_ms
        ).where(
            *database.system._wf_in(steps, some),
            steps.c.serialization == DBOSPortableJSON.name(),
            steps.c.output.contains('"usage":'),
        )
        yield from (tuple(row) for row in connection.execute(query))


def steps(
    database: Database, connection: sa.Connection, run_id: str, name: str | None = None
) -> list[StoredStep]:
    """The steps of a run, or those of this name, in the order of their numbers."""
    table = database.system.tables.operation_outputs
    query = (
        sa.select(
            table.c.function_id,
            table.c.function_name,
            table.c.output,
            table.c.serialization,
            table.c.error,
            table.c.child_workflow_id,
            table.c.started_at_epoch_ms,
            table.c.completed_at_epoch_ms,
        )
        .where(*database.system._wf(table, run_id))
        .where(sa.true() if name is None else table.c.function_name == name)
        .order_by(table.c.function_id)
    )
    return [
        StoredStep(
            step_id=row.function_id,
            name=row.function_name,
            output=row.output if row.serialization == DBOSPortableJSON.name() else None,
            error=None if row.error is None else StoredError(row.error, row.serialization),
            child=row.child_workflow_id,
            started_ms=row.started_at_epoch_ms,
            ended_ms=row.completed_at_epoch_ms,
        )
        for row in connection.execute(query)
    ]
