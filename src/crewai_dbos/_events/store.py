"""The events in one database."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from crewai_dbos._dbos_seam.database import ALIVE, Database, chunks
from crewai_dbos._events.event import CLOSING, TOKENS, Fact, Key
from crewai_dbos._events.table import events
from crewai_dbos._tables import migrate

Row = sa.Row[Any]

_LOCK = 726_411
"""Of Postgres, with the run: for whoever numbers events of it."""

_ATTEMPTS = 3


class Store:
    """The events in one database.

    Args:
        database: Where; the table is made there if there is none.
    """

    def __init__(self, database: Database) -> None:
        migrate(database)
        self.database = database
        self._table = events(database.schema)

    # Writing -------------------------------------------------------------------

    def add(self, facts: Sequence[Fact]) -> None:
        """Write these, less those that are there, in their order.

        Numbers are given by one writer of a run at a time, until it has committed: so a reader who
        has seen a number has seen all before it.
        """
        for _ in range(_ATTEMPTS - 1):
            with contextlib.suppress(IntegrityError):  # the engine reads from before the lock
                self._add(facts)
                return
        self._add(facts)

    def _add(self, facts: Sequence[Fact]) -> None:
        table, run_ids = self._table, sorted({fact.run_id for fact in facts})
        with self.database.writing() as connection:
            self._lock(connection, run_ids)
            last = dict.fromkeys(run_ids, 0)
            for some in chunks(run_ids):
                query = sa.select(table.c.run_id, sa.func.max(table.c.seq))
                query = query.where(table.c.run_id.in_(some)).group_by(table.c.run_id)
                last.update((run_id, seq) for run_id, seq in connection.execute(query))
            rows = []
            for fact in facts:
                last[fact.run_id] += 1
                rows.append(_row(fact, last[fact.run_id]))
            insert = self.database.insert(table)
            connection.execute(insert.on_conflict_do_nothing(index_elements=["run_id", "id"]), rows)

    def _lock(self, connection: sa.Connection, run_ids: Collection[str]) -> None:
        if self.database.is_sqlite:
            return  # it has one writer
        lock = sa.text("SELECT pg_advisory_xact_lock(:ours, :run)")
        for key in sorted({zlib.crc32(run_id.encode()) - 2**31 for run_id in run_ids}):
            connection.execute(lock, {"ours": _LOCK, "run": key})

    def say(self, run_id: str, type_: str, data: Mapping[str, Any], at_ms: int) -> None:
        """Write an event of a run itself that is carried out nowhere, if the run leaves any.

        Args:
            run_id: The run.
            type_: What happened: it was cancelled, for one.
            data: As of an `Event`.
            at_ms: When.
        """
        last = self.last_of_run(run_id)
        if last is None or last == type_:
            return
        part = sum(key.type == type_ and not key.path for key in self.known(run_id)) + 1
        self.add([Fact(run_id, Key(type_, "", part), at_ms, data)])

    def delete(self, connection: sa.Connection, run_ids: Collection[str]) -> None:
        """Delete the events of these runs, in a transaction of the caller's."""
        for some in chunks(run_ids):
            connection.execute(sa.delete(self._table).where(self._table.c.run_id.in_(some)))

    # Reading -------------------------------------------------------------------

    def known(self, run_id: str) -> set[Key]:
        """Which events of a run are written."""
        table = self._table
        query = sa.select(table.c.type, table.c.path, table.c.part)
        with self.database.engine.connect() as connection:
            rows = connection.execute(query.where(table.c.run_id == run_id))
            return {Key(*row) for row in rows}

    def read(self, run_id: str, after: int, limit: int) -> Sequence[Row]:
        """Number, run, type, path, time and data of the next events after the number `after`."""
        query = self._events(run_id).where(self._table.c.seq > after).limit(limit)
        with self.database.engine.connect() as connection:
            return connection.execute(query).fetchall()

    def unended(self, run_id: str) -> Sequence[Row]:
        """The same of the events in which something begins that has not ended."""
        table = self._table
        ends = sa.case((table.c.type.in_(CLOSING), 1), else_=0)
        first = (
            sa.select(sa.func.min(table.c.seq))
            .where(table.c.run_id == run_id, table.c.path != "", table.c.type != TOKENS)
            .group_by(table.c.path, table.c.part)
            .having(sa.func.sum(ends) == 0)
        )
        with self.database.engine.connect() as connection:
            return connection.execute(self._events(run_id).where(table.c.seq.in_(first))).fetchall()

    def last_of_run(self, run_id: str) -> str | None:
        """The type of the last event of the run itself."""
        table = self._table
        query = sa.select(table.c.type).where(table.c.run_id == run_id, table.c.path == "")
        with self.database.engine.connect() as connection:
            found = connection.execute(query.order_by(table.c.seq.desc()).limit(1)).scalar()
        return None if found is None else str(found)

    def last(self, run_id: str) -> int:
        """The number of the last event of a run; 0 if it has none."""
        table = self._table
        query = sa.select(sa.func.max(table.c.seq)).where(table.c.run_id == run_id)
        with self.database.engine.connect() as connection:
            return int(connection.execute(query).scalar() or 0)

    def is_alive(self, run_id: str) -> bool | None:
        """Whether the run has not ended; None if there is no such run."""
        status = self.database.status_of(run_id)
        return None if status is None else status in ALIVE

    def _events(self, run_id: str) -> sa.Select[Any]:
        c = self._table.c
        query = sa.select(c.seq, c.run_id, c.type, c.path, c.at_ms, c.data)
        return query.where(c.run_id == run_id).order_by(c.seq)


def _row(fact: Fact, seq: int) -> dict[str, object]:
    key = fact.key
    return {
        "run_id": fact.run_id,
        "seq": seq,
        "id": key.id,
        "type": key.type,
        "path": key.path,
        "part": key.part,
        "at_ms": fact.at_ms,
        "data": json.dumps(fact.data),
    }
