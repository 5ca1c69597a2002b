"""All workers, and whether each is alive, by the clock of the database: for those that are none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from crewai_dbos._dbos_seam.database import PENDING, Database
from crewai_dbos._fleet.leases import now_ms
from crewai_dbos._fleet.table import workers
from crewai_dbos._stored import names, work_order


@dataclass(frozen=True)
class Listed:
    """A worker as its lease says. Times are milliseconds.

    Attributes:
        executor_id, process, application, version: As of a `Holder`.
        definitions: What it has, by what that is of.
        lease_ms: For how long its lease lasts without a beat.
        started_ms: When it took the lease, since 1970.
        age_ms: How long ago it beat; None if it has given its lease up.
        also: What else its row says.
    """

    executor_id: str
    process: str
    application: str
    version: str
    definitions: Mapping[str, tuple[str, ...]]
    lease_ms: int
    started_ms: int
    age_ms: int | None
    also: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_alive(self) -> bool:
        """After the clock has stood still a living worker may seem dead until its next beat."""
        return self.age_ms is not None and self.age_ms <= self.lease_ms

    def named(self, noun: str) -> tuple[str, ...]:
        """The names of what it has of this kind."""
        return self.definitions.get(noun, ())

    def by_name(self, noun: str) -> set[str]:
        """Those of them that may be kicked off by others than their code."""
        told = (each.partition(":") for each in self.also.get(names.BY_NAME, ()))
        return {name for of, _, name in told if of == noun}

    def listens_to(self, queue: str | None) -> bool:
        """Whether it takes runs from this queue, or those that come from none."""
        told = self.also.get(names.QUEUES)
        return told is None or queue is None or queue in told

    @property
    def serializer(self) -> str | None:
        """The name of what its application encrypts with."""
        return next(iter(self.also.get(names.SERIALIZER, ())), None)


def listed(database: Database, connection: sa.Connection) -> list[Listed]:
    """Every worker that has a lease, or had one."""
    table = workers(database.schema)
    query = sa.select(table, now_ms(database).label("now")).order_by(
        table.c.application, table.c.version, table.c.started_ms, table.c.executor_id
    )
    return [_listed(row) for row in connection.execute(query)]


def worker_of(
    database: Database,
    connection: sa.Connection,
    executor_id: str,
    application: str | None,
    version: str,
) -> Listed | None:
    """The worker that carries out runs under this id; None if no worker does.

    Args:
        application: The name of the runs' application; None for any.
    """
    table = workers(database.schema)
    query = (
        sa.select(table, now_ms(database).label("now"))
        .where(table.c.executor_id == executor_id, table.c.version == version)
        .order_by(table.c.beat_ms.desc())
    )
    if application is not None:
        query = query.where(table.c.application == application)
    row = connection.execute(query).first()
    return None if row is None else _listed(row)


def _listed(row: Any) -> Listed:
    told = _lists(row.definitions)
    return Listed(
        executor_id=row.executor_id,
        process=row.process,
        application=row.application,
        version=row.version,
        definitions={n: each for n, each in told.items() if n in work_order.NOUNS},
        lease_ms=row.lease_ms,
        started_ms=row.started_ms,
        # Of a beat that is a little ahead, as each is at least one more than the last.
        age_ms=None if row.beat_ms <= 0 else max(0, row.now - row.beat_ms),
        also={name: each for name, each in told.items() if name not in work_order.NOUNS},
    )


def runs_under(
    database: Database, connection: sa.Connection
) -> list[tuple[str | None, str | None, str | None, int]]:
    """How many runs are at work, by executor id, application and version."""
    runs = database.runs.c
    which = (runs.executor_id, runs.application_name, runs.application_version)
    query = sa.select(*which, sa.func.count()).where(runs.status == PENDING).group_by(*which)
    return [(row[0], row[1], row[2], row[3]) for row in connection.execute(query)]


def _lists(text: str) -> dict[str, tuple[str, ...]]:
    found: Any = json.loads(text)
    if not isinstance(found, Mapping):
        return {}
    return {
        str(noun): tuple(map(str, each))
        for noun, each in found.items()
        if isinstance(each, list) and each
    }
