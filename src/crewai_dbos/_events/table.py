"""The table of events, which `_tables` makes."""

from __future__ import annotations

from functools import lru_cache

import sqlalchemy as sa


@lru_cache(maxsize=8)
def events(schema: str | None) -> sa.Table:
    """The table, where DBOS's own are."""
    text, number = sa.Text, sa.BigInteger
    return sa.Table(
        "crewai_dbos_events",
        sa.MetaData(schema=schema),
        sa.Column("run_id", text, primary_key=True),
        sa.Column("seq", number, primary_key=True),
        sa.Column("id", text),
        sa.Column("type", text),
        sa.Column("path", text),
        sa.Column("part", number),
        sa.Column("at_ms", number),
        sa.Column("data", text),
    )
