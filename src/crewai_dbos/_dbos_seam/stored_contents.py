"""What runs were given, returned and recorded: texts, as they are stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from dbos._serialization import DBOSPortableJSON

from crewai_dbos._dbos_seam.database import Database, chunks
from crewai_dbos._dbos_seam.stored_runs import SUCCESS, has_id


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
    table, given = database.runs, database.system.tables.workflow_input
    found: dict[str, str] = {}
    for some in chunks(run_ids):
        text = sa.func.coalesce(given.c.inputs, table.c.inputs)
        query = (
            sa.select(table.c.workflow_uuid, text)
            .select_from(table.outerjoin(given, database.system._wf_join(table, given)))
            .where(has_id(database, some), table.c.serialization == DBOSPortableJSON.name())
        )
        found.update((run_id, text) for run_id, text in connection.execute(query) if text)
    return found


def outputs(
    database: Database, connection: sa.Connection, run_ids: Iterable[str]
) -> dict[str, str]:
    """What those of these runs have returned that have ended well, where that is JSON."""
    table, made = database.runs, database.system.tables.workflow_output
    found: dict[str, str] = {}
    for some in chunks(run_ids):
        text = sa.func.coalesce(made.c.output, table.c.output)
        query = (
            sa.select(table.c.workflow_uuid, text)
            .select_from(table.outerjoin(made, database.system._wf_join(table, made)))
            .where(has_id(database, some), table.c.status == SUCCESS, text.is_not(None))
            .where(table.c.serialization == DBOSPortableJSON.name())
        )
        found.update((run_id, text) for run_id, text in connection.execute(query))
    return found


def errors(
    database: Database, connection: sa.Connection, run_ids: Iterable[str]
) -> dict[str, StoredError]:
    """The errors of those of these runs that have ended with one."""
    table, made = database.runs, database.system.tables.workflow_output
    found: dict[str, StoredError] = {}
    for some in chunks(run_ids):
        text = sa.func.coalesce(made.c.error, table.c.error)
        query = (
            sa.select(table.c.workflow_uuid, text, table.c.serialization)
            .select_from(table.outerjoin(made, database.system._wf_join(table, made)))
            .where(has_id(database, some), text.is_not(None))
        )
        for run_id, error, serializer in connection.execute(query):
            found[run_id] = StoredError(error, serializer)
    return found


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
