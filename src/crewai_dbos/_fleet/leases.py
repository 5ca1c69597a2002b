"""The leases of workers: a row each, which its worker beats and any other may find unchanged."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from crewai_dbos._dbos_seam import recovering
from crewai_dbos._dbos_seam.database import PENDING, Database, close
from crewai_dbos._fleet.table import workers
from crewai_dbos._stored import names
from crewai_dbos._stored.cancelled import said_in
from crewai_dbos._stored.handed_on import HandedOn
from crewai_dbos._tables import migrate

Definitions = Mapping[str, Sequence[str]]
"""The names of definitions by what they are of: ``{"crew": ["research"]}``."""

KEPT_MS = 24 * 60 * 60 * 1000
"""For how long a lease without a beat is kept: whoever had it may wake up and take a run.

So may a thread that its process has left behind when it gave the lease up.
"""


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
        seconds: For how long it lasts without a beat.
        beat_ms: When it was beaten last, in milliseconds since 1970; another one with each beat.
            Below zero it was given up then.
    """

    holder: Holder
    definitions: Definitions
    seconds: float
    beat_ms: int

    @property
    def is_released(self) -> bool:
        return self.beat_ms <= 0

    def has(self, noun: str, name: str) -> bool:
        return name in self.definitions.get(noun, ())


def now_ms(database: Database) -> sa.ColumnElement[int]:
    """The time of a statement, not of its transaction; for people, and to find old rows."""
    if database.is_sqlite:
        days = sa.func.julianday("now") - 2440587.5
        return sa.cast(days * 86400000, sa.BigInteger)
    seconds = sa.func.extract("epoch", sa.func.clock_timestamp())
    return sa.cast(seconds * 1000, sa.BigInteger)


class Leases:
    """The leases in one database, as a worker sees them that has one.

    Args:
        database: On an engine of its own, which `close` closes: a beat must not wait until a run
            gives a connection back.
        holder: Who this worker is.
        seconds: For how long its lease lasts.
        also: Returns what else its row says beside its definitions, by names that are stored.
    """

    def __init__(
        self,
        database: Database,
        holder: Holder,
        seconds: float,
        also: Callable[[], Definitions] = dict,
    ) -> None:
        self._database = database
        self._table = workers(database.schema)
        self._seconds = seconds
        self._also = also
        self._is_released = False
        self._written = ""
        self.holder = holder

    def prepare(self) -> None:
        """Make the table, if it is not there."""
        migrate(self._database)

    def take(self, definitions: Definitions, over: Lease | None = None) -> Lease | None:
        """Take the lease of our id.

        Args:
            definitions: What this worker has.
            over: A lease that has run out, whose place ours takes.

        Returns:
            The lease of another process that has the id, unless it is `over` or released: then ours
            is not taken.
        """
        columns = self._table.c
        row = self._row(definitions)
        free = sa.or_(columns.token == self.holder.token, columns.beat_ms <= 0)
        if over is not None:
            seen = sa.and_(columns.token == over.holder.token, columns.beat_ms == over.beat_ms)
            free = sa.or_(free, seen)
        insert = self._database.insert(self._table).values(row).on_conflict_do_nothing()
        with self._database.engine.begin() as connection:
            replaced = connection.execute(
                sa.update(self._table).where(*self._is(self.holder), free).values(row)
            )
            if replaced.rowcount == 1:
                return None
            connection.execute(insert)
            found = connection.execute(sa.select(self._table).where(*self._is(self.holder))).first()
        if found is None:  # it was given up meanwhile
            return self.take(definitions, over)
        return None if found.token == self.holder.token else _lease(found)

    def beat(self, definitions: Definitions) -> bool:
        """Say that we live.

        Returns:
            Whether the lease is still ours. A row that is not there any more is made again.
        """
        columns = self._table.c
        changed = sa.case((columns.beat_ms < self._now_ms, self._now_ms), else_=columns.beat_ms + 1)
        beat = (
            sa.update(self._table)
            .where(*self._is(self.holder), columns.token == self.holder.token)
            .where(columns.beat_ms > 0)
            .values(beat_ms=changed)
        )
        written = self._as_written(definitions)
        if written != self._written:  # there may be very many
            beat = beat.values(definitions=written)
        with self._transaction() as connection:
            is_ours = connection.execute(beat).rowcount == 1
        if is_ours:
            self._written = written
            return True
        if self._is_released:
            return True
        return self.take(definitions) is None

    def of_peers(self) -> list[Lease]:
        """The leases of other workers of our application and version.

        Of those that were given up, which are kept for a day, only such under which runs are at
        work; what they had is left out.
        """
        columns, runs = self._table.c, self._database.runs
        is_held = columns.beat_ms > 0
        at_work = sa.select(runs.c.executor_id).where(*self._at_work(self.holder))
        query = sa.select(
            *(column for column in columns if column is not columns.definitions),
            sa.case((is_held, columns.definitions), else_="{}").label("definitions"),
        ).where(
            columns.executor_id != self.holder.executor_id,
            columns.application == self.holder.application,
            columns.version == self.holder.version,
            sa.or_(is_held, columns.executor_id.in_(at_work)),
        )
        with self._transaction() as connection:
            return [_lease(row) for row in connection.execute(query)]

    def with_runs(self, holders: Iterable[Holder]) -> set[str]:
        """The executor ids of those of our application and version that have runs."""
        ids = [holder.executor_id for holder in holders]
        runs = self._database.runs
        query = sa.select(runs.c.executor_id).distinct().where(*self._at_work(self.holder))
        with self._transaction() as connection:
            return set(connection.execute(query.where(runs.c.executor_id.in_(ids))).scalars())

    def take_over(self, lease: Lease) -> list[str]:
        """Put the runs of a worker back on their queues, unless it has beaten since.

        It can't beat meanwhile: this is one transaction, which has its row.

        Returns:
            Their ids. A run whose row somebody has locked stays, to be looked at again.
        """
        columns, holder = self._table.c, lease.holder
        same = sa.select(columns.token).where(
            *self._is(holder), columns.token == holder.token, columns.beat_ms == lease.beat_ms
        )
        with self._transaction(writes=True) as connection:
            locked = same.with_for_update(skip_locked=True)
            if connection.execute(locked).first() is None:
                return []
            now = self._database.now_of(connection)
            said = HandedOn(holder.executor_id, now).as_attributes()
            return recovering.recover(
                self._database, connection, holder.executor_id, said, *self._at_work(holder)
            )

    def without_lease(self) -> dict[str, int]:
        """How many runs of our application and version are under processes without a lease."""
        runs, columns = self._database.runs, self._table.c
        held = sa.exists().where(
            columns.executor_id == runs.c.executor_id,
            columns.application == self.holder.application,
            columns.version == self.holder.version,
        )
        query = sa.select(runs.c.executor_id, sa.func.count()).where(
            *self._at_work(self.holder), ~held
        )
        with self._transaction() as connection:
            found = connection.execute(query.group_by(runs.c.executor_id))
            return {str(executor_id): count for executor_id, count in found}

    def clear(self) -> None:
        """Take old leases of our application away, of every version, that have no runs left."""
        runs, columns = self._database.runs, self._table.c
        has_runs = sa.exists().where(
            *self._at_work(columns), runs.c.executor_id == columns.executor_id
        )
        is_old = sa.func.abs(columns.beat_ms) < self._now_ms - KEPT_MS
        is_ours = columns.application == self.holder.application
        with self._transaction() as connection:
            connection.execute(sa.delete(self._table).where(is_ours, is_old, ~has_runs))

    def claimed(self) -> list[tuple[str, str]]:
        """The ids of the agents', crews' and flows' runs that are under our lease.

        Returns:
            Each with that of its execution, without those that wait here for their definition.
        """
        runs = self._database.runs
        query = sa.select(runs.c.workflow_uuid, runs.c.owner_xid, runs.c.attributes).where(
            *self._at_work(self.holder),
            runs.c.executor_id == self.holder.executor_id,
            runs.c.name.in_(names.WORKFLOWS),
            runs.c.owner_xid.is_not(None),
        )
        with self._transaction() as connection:
            return [
                (str(run_id), str(owner_xid))
                for run_id, owner_xid, attributes in connection.execute(query)
                if "waiting" not in said_in(attributes if isinstance(attributes, dict) else {})
            ]

    def unended(self) -> list[str]:
        """The ids of the runs that are under our lease; none if it is not ours any more."""
        runs, columns = self._database.runs, self._table.c
        is_ours = sa.exists().where(*self._is(self.holder), columns.token == self.holder.token)
        query = sa.select(runs.c.workflow_uuid).where(
            *self._at_work(self.holder), runs.c.executor_id == self.holder.executor_id, is_ours
        )
        with self._transaction() as connection:
            return list(connection.execute(query.order_by(runs.c.workflow_uuid)).scalars())

    def release(self) -> None:
        """Give our lease up: what is left of our runs goes to others at once."""
        self._is_released = True
        mine = (*self._is(self.holder), self._table.c.token == self.holder.token)
        with self._transaction() as connection:
            connection.execute(sa.update(self._table).where(*mine).values(beat_ms=-self._now_ms))

    def close(self) -> None:
        """Give the connections back."""
        close(self._database)

    def _is(self, holder: Holder) -> tuple[sa.ColumnElement[bool], ...]:
        columns = self._table.c
        return (
            columns.executor_id == holder.executor_id,
            columns.application == holder.application,
            columns.version == holder.version,
        )

    def _row(self, definitions: Definitions) -> dict[str, Any]:
        return {
            **vars(self.holder),
            "definitions": self._as_written(definitions),
            "lease_ms": int(self._seconds * 1000),
            "started_ms": self._now_ms,
            "beat_ms": self._now_ms,
        }

    def _as_written(self, definitions: Definitions) -> str:
        return json.dumps({**definitions, **self._also()})

    def _at_work(self, holder: Holder | Any) -> tuple[sa.ColumnElement[bool], ...]:
        """Which runs are at work, of the application and version of `holder`, or of a row."""
        runs = self._database.runs
        name = runs.c.application_name
        return (
            runs.c.status == PENDING,
            runs.c.application_version == holder.version,
            sa.or_(name == holder.application, name.is_(None)),
        )

    @property
    def _now_ms(self) -> sa.ColumnElement[int]:
        return now_ms(self._database)

    @contextlib.contextmanager
    def _transaction(self, *, writes: bool = False) -> Iterator[sa.Connection]:
        begun = self._database.writing() if writes else self._database.engine.begin()
        with begun as connection:
            if not self._database.is_sqlite:
                connection.execute(_BOUND, {"ms": str(int(self._seconds * 1000 / 3))})
            yield connection


_BOUND = sa.text(
    "SELECT set_config('lock_timeout', :ms, true), set_config('statement_timeout', :ms, true),"
    " set_config('idle_in_transaction_session_timeout', :ms, true)"
)
"""A row that somebody has locked stops nobody for long, nor does a worker that stands still."""


def _lease(row: Any) -> Lease:
    holder = Holder(row.executor_id, row.token, row.process, row.application, row.version)
    return Lease(holder, json.loads(row.definitions), row.lease_ms / 1000, row.beat_ms)
