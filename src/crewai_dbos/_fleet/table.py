"""The table of workers, which `_tables` makes."""

from __future__ import annotations

from functools import lru_cache

import sqlalchemy as sa


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
