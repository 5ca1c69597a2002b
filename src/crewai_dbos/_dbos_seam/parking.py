"""The row of a run in DBOS's table, while the run waits for a person.

DBOS has a status for a run that is to begin later, DELAYED: it keeps its queue and its deadline,
takes none of the queue's places, is not recovered, and `get_result` waits on. DBOS offers no way
from PENDING to there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from dbos import DBOSClient
from dbos._sys_db import SystemDatabase, WorkflowStatusString, db_retry
from dbos._utils import INTERNAL_QUEUE_NAME, GlobalParams
from sqlalchemy.dialects import postgresql, sqlite

from crewai_dbos._dbos_seam.context import detached
from crewai_dbos._dbos_seam.instance import launched_instance, system_database

T = TypeVar("T")

FOR_EVER = 2**62
"""Milliseconds; when a run is woken that waits without a deadline."""

_DELAYED = WorkflowStatusString.DELAYED.value
_ENQUEUED = WorkflowStatusString.ENQUEUED.value
_PENDING = WorkflowStatusString.PENDING.value
ALIVE = (_PENDING, _ENQUEUED, _DELAYED)
"""The statuses of a run that has not ended."""
LEFT_TO_ITS_ROW = _DELAYED
CANCELLED = WorkflowStatusString.CANCELLED.value


def chunks(values: Iterable[str]) -> Iterator[list[str]]:
    """`values` in lists that are not too long for one statement."""
    every = list(values)
    for start in range(0, len(every), 500):
        yield every[start : start + 500]


@dataclass(frozen=True)
class RunRow:
    """What of a run's row says who carries it out.

    Attributes:
        status: DBOS's status.
        owner_xid: The execution that may record; None if there is none.
    """

    status: str
    owner_xid: str | None


@dataclass(frozen=True)
class Database:
    """The database that DBOS keeps its workflows in."""

    system: SystemDatabase

    @property
    def schema(self) -> str | None:
        """Where DBOS's tables are; None on SQLite, which has no schemas."""
        schema: str | None = self.system.schema
        return schema

    @property
    def is_sqlite(self) -> bool:
        return str(self.system.engine.dialect.name) == "sqlite"

    @property
    def engine(self) -> sa.Engine:
        engine: sa.Engine = self.system.engine
        return engine

    @property
    def _runs(self) -> sa.Table:
        table: sa.Table = self.system.tables.workflow_status
        return table

    @property
    def now_ms(self) -> sa.ColumnElement[int]:
        """The time by the clock of the database, in milliseconds, as an expression."""
        now: sa.ColumnElement[int] = self.system._now_ms_sql()
        return now

    def insert(self, table: sa.Table) -> Any:
        """An INSERT that may say what to do ``on_conflict``."""
        return (sqlite if self.is_sqlite else postgresql).insert(table)

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that looks before it writes, alone where a database has one writer."""
        with self.engine.begin() as connection:
            if self.is_sqlite:
                connection.execute(sa.text("BEGIN IMMEDIATE"))
            yield connection

    def patiently(self, function: Callable[[], T]) -> T:
        """What `function` returns, which waits for a database that is away, as DBOS's own calls."""
        return detached(db_retry(sys_db=self.system)(function))

    def rows(self, connection: sa.Connection, run_ids: Iterable[str]) -> dict[str, RunRow]:
        """The rows of those of `run_ids` that are there."""
        runs, found = self._runs, {}
        for some in chunks(run_ids):
            query = sa.select(runs.c.workflow_uuid, runs.c.status, runs.c.owner_xid)
            for run_id, status, xid in connection.execute(
                query.where(*self.system._wf_in(runs, some))
            ):
                found[run_id] = RunRow(status, xid)
        return found

    def is_alive(self, run_id: Any) -> sa.ColumnElement[bool]:
        """Whether the run has not ended, as an expression; `run_id` may be a column."""
        runs = self._runs
        return sa.exists().where(runs.c.workflow_uuid == run_id, runs.c.status.in_(ALIVE))

    def has_runs(self) -> bool:
        """Whether DBOS has made its tables here."""
        with self.engine.connect() as connection:
            return sa.inspect(connection).has_table(self._runs.name, self.schema)

    def park(
        self, connection: sa.Connection, run_id: str, owner_xid: str, until_ms: int, queue: str
    ) -> bool:
        """Leave a run to its row, if this execution of it may still record.

        Args:
            connection: Of a transaction that has locked the requests that the run waits for.
            run_id: The run's workflow id.
            owner_xid: This execution.
            until_ms: When DBOS wakes it by itself, in milliseconds since 1970.
            queue: What it is taken from when it is woken, unless it came from another one.
        """
        runs = self._runs
        left = connection.execute(
            sa.update(runs)
            .where(*self.system._wf(runs, run_id))
            .where(runs.c.status == _PENDING, runs.c.owner_xid == owner_xid)
            .values(
                status=_DELAYED,
                delay_until_epoch_ms=until_ms,
                owner_xid=None,
                started_at_epoch_ms=None,
                recovery_attempts=0,
                queue_name=sa.case((self._comes_from_a_queue, runs.c.queue_name), else_=queue),
                **self._version(connection),
                updated_at=self.now_ms,
            )
        )
        return left.rowcount == 1

    @property
    def _comes_from_a_queue(self) -> sa.ColumnElement[bool]:
        """Not from the one that recovered and resumed runs are taken from, any number at once."""
        queue = self._runs.c.queue_name
        return queue.is_not(None) & (queue != INTERNAL_QUEUE_NAME)

    def _version(self, connection: sa.Connection) -> dict[str, Any]:
        """The version of a run that waits: whichever is the newest when it is woken.

        Its code is checked then. But only the newest takes runs without a version, so a run of a
        process of another one keeps its own.
        """
        newest = self.system._is_latest_version(GlobalParams.app_version, connection)
        return {"application_version": None} if newest else {}

    def wake(self, connection: sa.Connection, run_id: str) -> None:
        """Put a run that was left to its row back on its queue; nothing to any other."""
        runs = self._runs
        connection.execute(
            sa.update(runs)
            .where(*self.system._wf(runs, run_id))
            .where(runs.c.status == _DELAYED)
            .values(status=_ENQUEUED, delay_until_epoch_ms=None, updated_at=self.now_ms)
        )


def launched_database() -> Database:
    """That of the launched DBOS instance."""
    return Database(system_database())


def listens_to(queue: str) -> bool:
    """Whether the launched DBOS instance takes runs from `queue`; its config may say which."""
    queues = launched_instance()._listening_queues
    return queues is None or queue in queues


def database_of(client: DBOSClient) -> Database:
    """That of a client."""
    return Database(client._sys_db)
