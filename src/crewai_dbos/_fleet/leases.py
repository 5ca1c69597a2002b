"""The leases of workers: a row each, which its worker beats and any other may find stale."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from crewai_dbos._dbos_seam.database import PENDING, Database
from crewai_dbos._fleet.table import workers
from crewai_dbos._tables import migrate

Definitions = Mapping[str, Sequence[str]]
"""The names of definitions by what they are of: ``{"crew": ["research"]}``."""


@dataclass(frozen=True)
class Holder:
    """Whose lease a worker's is.

    Attributes:
        executor_id: DBOS's id of the process.
        token: Of this very process; another one may have had the id before.
        process: Host and process id, for people.
        application, version: Whose runs it takes.
    """

    executor_id: str
    token: str
    process: str
    application: str
    version: str


@dataclass(frozen=True)
class Lease:
    """A worker's lease, as its peers see it.

    Attributes:
        holder: Whose it is.
        definitions: What the worker has.
        beat_ms: When it was beaten last, by the database's clock, in milliseconds since 1970.
        is_stale: Whether that is longer ago than the lease lasts.
    """

    holder: Holder
    definitions: Definitions
    beat_ms: int
    is_stale: bool

    def has(self, noun: str, name: str) -> bool:
        return name in self.definitions.get(noun, ())


class Leases:
    """The leases in one database, as a worker sees them that has one.

    They have a connection of their own: a beat must not wait until a run gives one back.
    """

    def __init__(self, database: Database, holder: Holder, seconds: float) -> None:
        migrate(database)
        self._database = database
        self._table = workers(database.schema)
        self._seconds = seconds
        self._connection: sa.Connection | None = None
        self._lock = threading.RLock()
        self.holder = holder

    def take(self, definitions: Definitions) -> Lease | None:
        """Take the lease of our id.

        Returns:
            The lease of another process that has the id, if its beat is not stale: then ours is
            not taken.
        """
        table, mine = self._table, self._mine
        with self._writing() as connection:
            found = connection.execute(self._leases().where(mine).with_for_update()).first()
            lease = None if found is None else _lease(found)
            if lease and lease.holder.token != self.holder.token and not lease.is_stale:
                return lease
            connection.execute(sa.delete(table).where(mine))
            connection.execute(sa.insert(table).values(self._row(definitions)))
        return None

    def beat(self, definitions: Definitions) -> bool:
        """Say that we live.

        Returns:
            Whether the lease is still ours. One that a peer has cleared away is taken again.
        """
        table = self._table
        with self._writing() as connection:
            beaten = connection.execute(
                sa.update(table)
                .where(self._mine, table.c.token == self.holder.token)
                .values(beat_ms=self._database.now_ms, definitions=json.dumps(definitions))
            )
            if beaten.rowcount == 1:
                return True
        return self.take(definitions) is None

    def of_peers(self) -> list[Lease]:
        """The leases of other workers of our application and version."""
        table = self._table
        query = self._leases().where(
            table.c.executor_id != self.holder.executor_id,
            table.c.application == self.holder.application,
            table.c.version == self.holder.version,
        )
        with self._writing() as connection:
            return [_lease(row) for row in connection.execute(query)]

    def clear(self, lease: Lease) -> None:
        """Take a stale lease away, unless runs are left under it or it was beaten meanwhile."""
        table = self._table
        with self._writing() as connection:
            connection.execute(
                sa.delete(table)
                .where(table.c.executor_id == lease.holder.executor_id)
                .where(table.c.beat_ms == lease.beat_ms)
                .where(~self._has_runs(lease.holder.executor_id))
            )

    def release(self) -> None:
        """Give our lease up: what is left of our runs goes to others at once."""
        table, executor_id = self._table, self.holder.executor_id
        mine = (self._mine, table.c.token == self.holder.token)
        with self._writing() as connection:
            connection.execute(sa.update(table).where(*mine).values(beat_ms=0))
            connection.execute(sa.delete(table).where(*mine, ~self._has_runs(executor_id)))

    def close(self) -> None:
        """Give the connection back."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                with contextlib.suppress(Exception):
                    connection.close()

    @property
    def _mine(self) -> sa.ColumnElement[bool]:
        return self._table.c.executor_id == self.holder.executor_id

    def _row(self, definitions: Definitions) -> dict[str, Any]:
        now = self._database.now_ms
        return {
            **vars(self.holder),
            "definitions": json.dumps(definitions),
            "lease_ms": int(self._seconds * 1000),
            "started_ms": now,
            "beat_ms": now,
        }

    def _leases(self) -> sa.Select[Any]:
        table = self._table
        stale = table.c.beat_ms + table.c.lease_ms < self._database.now_ms
        return sa.select(table, stale.label("is_stale"))

    def _has_runs(self, executor_id: str) -> sa.ColumnElement[bool]:
        runs = self._database.runs
        return sa.exists().where(runs.c.status == PENDING, runs.c.executor_id == executor_id)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._lock:
            connection = self._connection
            if connection is None:
                connection = self._database.engine.connect()
                connection.detach()  # DBOS's pool makes another one in its place
                self._connection = connection
            try:
                with connection.begin():
                    if self._database.is_sqlite:
                        connection.execute(sa.text("BEGIN IMMEDIATE"))
                    yield connection
            except BaseException:
                self.close()
                raise


def _lease(row: Any) -> Lease:
    holder = Holder(row.executor_id, row.token, row.process, row.application, row.version)
    return Lease(holder, json.loads(row.definitions), row.beat_ms, bool(row.is_stale))
