"""The rows of a run as a new run: what DBOS's fork copies, and what of it is left out or changed.

DBOS copies the steps below a number. All of it happens here in a transaction of the caller's, so
that no process takes the fork before it is complete.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from dbos import error
from dbos._serialization import DBOSPortableJSON
from dbos._sys_db import SystemDatabase

from crewai_dbos._dbos_seam.database import Database, chunks
from crewai_dbos._dbos_seam.rows import RecordedRow, rows_of
from crewai_dbos._dbos_seam.stored_contents import order_of

_EVERY_STEP = 2**31 - 1


class _Within:
    """Stands in for an engine: its transaction is the one that is open already."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self.dialect = connection.dialect

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        yield self._connection


class CopiedRun:
    """A run that is being made of another's rows.

    Args:
        database: Where both are.
        connection: Of the transaction.
        run_id: Of the new run.
    """

    def __init__(self, database: Database, connection: sa.Connection, run_id: str) -> None:
        self.run_id = run_id
        self._database = database
        self._system: SystemDatabase = database.system
        self._now = database.now_ms
        self._connection = connection

    def rows(self) -> list[RecordedRow]:
        """Its steps, in the order of their numbers."""
        return rows_of(self._system, self._connection, self.run_id)

    def order(self) -> Any:
        """What its workflow was asked to do, as JSON data; None if nothing."""
        return order_of(self._database, self._connection, self.run_id)

    def set_order(self, order: Any) -> None:
        """Have its workflow asked to do something else."""
        text = DBOSPortableJSON.serialize({"positionalArgs": [order], "namedArgs": {}})
        self._connection.execute(
            sa.update(self._input)
            .where(*self._system._wf(self._input, self.run_id))
            .values(inputs=text)
        )

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        runs = self._system.tables.workflow_status
        self._connection.execute(
            sa.update(runs)
            .where(*self._system._wf(runs, self.run_id))
            .values(attributes=dict(attributes))
        )

    def attributes(self) -> dict[str, Any]:
        runs = self._system.tables.workflow_status
        query = sa.select(runs.c.attributes).where(*self._system._wf(runs, self.run_id))
        return dict(self._connection.execute(query).scalar() or {})

    def workflow(self) -> str:
        """The name of its workflow."""
        runs = self._system.tables.workflow_status
        query = sa.select(runs.c.name).where(*self._system._wf(runs, self.run_id))
        return str(self._connection.execute(query).scalar())

    def leave_out(self, step_ids: Iterable[int]) -> None:
        """Take steps out, with the events and stream values that they wrote."""
        gone = [str(step_id) for step_id in step_ids]
        tables = self._system.tables
        for some in chunks(gone):
            numbers = [int(step_id) for step_id in some]
            for table in (tables.operation_outputs, tables.workflow_events_history, tables.streams):
                self._connection.execute(
                    sa.delete(table).where(
                        *self._system._wf(table, self.run_id), table.c.function_id.in_(numbers)
                    )
                )
        if gone:
            self._last_events()
            self._close_gaps()

    def change(self, step_id: int, output: Any) -> None:
        """Have a step hold something else."""
        steps = self._steps
        self._connection.execute(
            sa.update(steps)
            .where(*self._system._wf(steps, self.run_id), steps.c.function_id == step_id)
            .values(output=DBOSPortableJSON.serialize(output))
        )

    def add(self, step_id: int, name: str, output: Any) -> None:
        """One more step."""
        runs = self._system.tables.workflow_status
        owner = sa.select(runs.c.application_name).where(*self._system._wf(runs, self.run_id))
        self._connection.execute(
            sa.insert(self._steps).values(
                **self._system._wf_values(self.run_id),
                workflow_uuid=self.run_id,
                function_id=step_id,
                function_name=name,
                output=DBOSPortableJSON.serialize(output),
                serialization=DBOSPortableJSON.name(),
                started_at_epoch_ms=self._now,
                completed_at_epoch_ms=self._now,
                application_name=owner.scalar_subquery(),
                retention_timestamp=self._now,
            )
        )

    @property
    def _steps(self) -> sa.Table:
        table: sa.Table = self._system.tables.operation_outputs
        return table

    @property
    def _input(self) -> sa.Table:
        table: sa.Table = self._system.tables.workflow_input
        return table

    def _last_events(self) -> None:
        """An event has the value of the last step that is left of those that set it."""
        tables = self._system.tables
        now, history = tables.workflow_events, tables.workflow_events_history
        self._connection.execute(sa.delete(now).where(*self._system._wf(now, self.run_id)))
        query = sa.select(history.c.key, history.c.value, history.c.serialization)
        ordered = query.where(*self._system._wf(history, self.run_id)).order_by(
            history.c.function_id
        )
        last = {row.key: row for row in self._connection.execute(ordered)}
        for row in last.values():
            self._connection.execute(
                sa.insert(now).values(
                    **self._system._wf_values(self.run_id),
                    workflow_uuid=self.run_id,
                    key=row.key,
                    value=row.value,
                    serialization=row.serialization,
                )
            )

    def _close_gaps(self) -> None:
        """A stream is read offset by offset, and a reader would wait at a gap."""
        streams = self._system.tables.streams
        own = self._system._wf(streams, self.run_id)
        query = sa.select(streams.c.key, streams.c.offset).where(*own)
        counts: dict[str, int] = {}
        for key, offset in self._connection.execute(
            query.order_by(streams.c.key, streams.c.offset)
        ).all():
            place = counts.get(key, 0)
            counts[key] = place + 1
            if place != offset:
                self._connection.execute(
                    sa.update(streams)
                    .where(*own, streams.c.key == key, streams.c.offset == offset)
                    .values(offset=place)
                )


def copied(
    database: Database,
    connection: sa.Connection,
    run_id: str,
    fork_id: str,
    *,
    steps: bool,
    version: str | None,
) -> CopiedRun | None:
    """A run with the rows of another, as `DBOS.fork_workflow` makes it, in this transaction.

    Args:
        database: Where it is.
        connection: Of the transaction.
        run_id: What is copied.
        fork_id: The id of the copy.
        steps: Whether its steps are copied.
        version: The application version that takes it; None for the newest.

    Returns:
        None if there is no such run.
    """
    within = copy.copy(database.system)
    within.engine = _Within(connection)  # type: ignore[assignment]
    start = _EVERY_STEP if steps else 1
    try:
        within.fork_workflow([run_id], [fork_id], [start], application_version=version)
    except error.DBOSNonExistentWorkflowError:
        return None
    return CopiedRun(database, connection, fork_id)
