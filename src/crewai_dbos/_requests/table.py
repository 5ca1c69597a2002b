"""The table of requests, which `_tables` makes."""

from __future__ import annotations

from functools import lru_cache

import sqlalchemy as sa


@lru_cache(maxsize=8)
def requests(schema: str | None) -> sa.Table:
    """The table, where DBOS's own are."""
    text, number = sa.Text, sa.BigInteger
    return sa.Table(
        "crewai_dbos_requests",
        sa.MetaData(schema=schema),
        sa.Column("request_id", text, primary_key=True),
        sa.Column("run_id", text),
        sa.Column("name", text),
        sa.Column("generation", sa.Integer),
        sa.Column("kind", text),
        sa.Column("state", text),
        sa.Column("question", text),
        sa.Column("digest", text),
        sa.Column("audience", text),
        sa.Column("on_deadline", text),
        sa.Column("created_ms", number),
        sa.Column("deadline_ms", number),
        sa.Column("notified_ms", number),
        sa.Column("answer", text),
        sa.Column("answered_by", text),
        sa.Column("answered_ms", number),
    )
