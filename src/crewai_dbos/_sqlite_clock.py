"""DBOS's clock on a SQLite older than 3.42.

From Python 3.12 on DBOS reads the time as ``unixepoch('subsec')`` and writes that into the schema
of the databases it makes. An older libsqlite (Debian 12, Ubuntu 22.04) answers NULL, and the launch
fails; so does the launch of an older Python on a database that a newer one made.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from typing import Any

from crewai_dbos import _patches


def install() -> None:
    """Teach the function to every SQLite connection that SQLAlchemy opens from now on."""
    if sqlite3.sqlite_version_info < (3, 42):
        _patches.apply(_patches.OLD_SQLITE)


def teach(connection: Any, _record: Any) -> None:
    """A connection has been opened: it gets the function."""
    # hasattr, not isinstance: aiosqlite's connections are wrapped. Postgres drivers lack it.
    if hasattr(connection, "create_function"):
        connection.create_function("unixepoch", 1, _unixepoch)


def _unixepoch(when: Any) -> float | int | None:
    if isinstance(when, str) and when.lower() in ("subsec", "subsecond"):
        return time.time_ns() // 1_000_000 / 1000
    with contextlib.closing(sqlite3.connect(":memory:")) as plain:
        row: tuple[int | None] = plain.execute(
            "SELECT CAST(strftime('%s', ?) AS INTEGER)", (when,)
        ).fetchone()
    return row[0]
