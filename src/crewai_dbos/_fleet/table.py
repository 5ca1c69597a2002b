"""The table of workers, which `_tables` makes, and what others see there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import sqlalchemy as sa

from crewai_dbos._dbos_seam.database import Database


@lru_cache(maxsize=8)
def workers(schema: str | None) -> sa.Table:
    """The table, where DBOS's own are."""
    text, number = sa.Text, sa.BigInteger
    return sa.Table(
        "crewai_dbos_workers",
        sa.MetaData(schema=schema),
        sa.Column("executor_id", text, primary_key=True),
        sa.Column("application", text, primary_key=True),
        sa.Column("version", text, primary_key=True),
        sa.Column("token", text),
        sa.Column("process", text),
        sa.Column("definitions", text),
        sa.Column("lease_ms", number),
        sa.Column("started_ms", number),
        sa.Column("beat_ms", number),
    )


@dataclass(frozen=True)
class Held:
    """The lease of an executor, as somebody sees it who is no worker.

    Attributes:
        process: Host and process id, for people.
        is_alive: Whether it was beaten while it lasts, by the clock of the database. After that has
            stood still a living worker may seem dead until its next beat.
    """

    process: str
    is_alive: bool


def lease_of(
    database: Database,
    connection: sa.Connection,
    executor_id: str,
    application: str | None,
    version: str,
) -> Held | None:
    """The lease under which an executor carries out runs; None if it is no worker's.

    Args:
        application: The name of the runs' application; None for any.
    """
    columns = workers(database.schema).c
    query = (
        sa.select(columns.process, columns.beat_ms + columns.lease_ms > database.now_ms)
        .where(columns.executor_id == executor_id, columns.version == version)
        .order_by(columns.beat_ms.desc())
    )
    if application is not None:
        query = query.where(columns.application == application)
    row = connection.execute(query).first()
    return None if row is None else Held(str(row[0]), bool(row[1]))
