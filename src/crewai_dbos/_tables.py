"""The tables of ours beside DBOS's, and how they came to be what they are."""

from __future__ import annotations

import sqlalchemy as sa

from crewai_dbos._dbos_seam.database import Database

_LOCK = 726_411_001
"""Of Postgres, for whoever makes or changes our tables."""

MIGRATIONS = (
    (
        """CREATE TABLE {schema}crewai_dbos_requests (
            request_id TEXT PRIMARY KEY,
            run_id TEXT NOT NULL,
            name TEXT NOT NULL,
            generation INTEGER NOT NULL,
            kind TEXT NOT NULL,
            state TEXT NOT NULL,
            question TEXT NOT NULL,
            digest TEXT NOT NULL,
            audience TEXT,
            on_deadline TEXT,
            created_ms BIGINT NOT NULL,
            deadline_ms BIGINT,
            notified_ms BIGINT,
            answer TEXT,
            answered_by TEXT,
            answered_ms BIGINT
        )""",
        "CREATE INDEX crewai_dbos_requests_open ON {schema}crewai_dbos_requests (created_ms)"
        " WHERE state = 'open'",
        "CREATE INDEX crewai_dbos_requests_run ON {schema}crewai_dbos_requests (run_id)",
    ),
    (
        """CREATE TABLE {schema}crewai_dbos_events (
            run_id TEXT NOT NULL,
            seq BIGINT NOT NULL,
            id TEXT NOT NULL,
            type TEXT NOT NULL,
            path TEXT NOT NULL,
            part BIGINT NOT NULL,
            at_ms BIGINT NOT NULL,
            data TEXT NOT NULL,
            PRIMARY KEY (run_id, seq)
        )""",
        "CREATE UNIQUE INDEX crewai_dbos_events_once ON {schema}crewai_dbos_events (run_id, id)",
    ),
    (
        """CREATE TABLE {schema}crewai_dbos_workers (
            executor_id TEXT NOT NULL,
            application TEXT NOT NULL,
            version TEXT NOT NULL,
            token TEXT NOT NULL,
            process TEXT NOT NULL,
            definitions TEXT NOT NULL,
            lease_ms BIGINT NOT NULL,
            started_ms BIGINT NOT NULL,
            beat_ms BIGINT NOT NULL,
            PRIMARY KEY (executor_id, application, version)
        )""",
    ),
)
"""Statements that have made the tables, version by version. One that was released never changes."""


def migrate(database: Database) -> None:
    """Make the tables, or bring those of an earlier release to this one. Any number of times."""
    schema = "" if database.schema is None else f'"{database.schema}".'
    if _version(database, schema) == len(MIGRATIONS):
        return
    with database.writing() as connection:
        if not database.is_sqlite:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        connection.execute(
            sa.text(
                f"CREATE TABLE IF NOT EXISTS {schema}crewai_dbos_migrations"
                " (version INTEGER NOT NULL PRIMARY KEY)"
            )
        )
        known = f"SELECT coalesce(max(version), 0) FROM {schema}crewai_dbos_migrations"
        done = int(connection.execute(sa.text(known)).scalar_one())
        for version, statements in enumerate(MIGRATIONS[done:], done + 1):
            for statement in statements:
                connection.execute(sa.text(statement.format(schema=schema)))
            connection.execute(
                sa.text(f"INSERT INTO {schema}crewai_dbos_migrations VALUES (:version)"),
                {"version": version},
            )


def _version(database: Database, schema: str) -> int:
    """How far the tables are, without a lock; a newer release may have gone further."""
    with database.engine.connect() as connection:
        found = sa.inspect(connection).has_table("crewai_dbos_migrations", database.schema)
        if not found:
            return 0
        query = f"SELECT coalesce(max(version), 0) FROM {schema}crewai_dbos_migrations"
        done = int(connection.execute(sa.text(query)).scalar_one())
        return min(done, len(MIGRATIONS))
