"""A commit on SQLite is on the disk, also when the power goes at once.

By default SQLite ends a transaction by deleting its rollback journal, and does not wait until the
disk knows: if the power goes then, the journal is there again, and the next process that opens the
database rolls the transaction back. With ``journal_mode=PERSIST`` it overwrites the head of the
journal in place of deleting it, and waits for that. It takes as long.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from typing import Any

import sqlalchemy as sa

KEEPS_JOURNAL = "crewai_dbos.keeps_journal"
"""In the ``info`` of a connection: True once it is as it should be, False if that is not known."""


def keeping(create: Any) -> Any:
    """`SystemDatabase.create`, whose engines keep the journal."""
    original = create.__func__

    @functools.wraps(original)
    def created(*args: Any, **kwargs: Any) -> Any:
        database = original(*args, **kwargs)
        if getattr(database, "_is_sqlite", False):
            sa.event.listen(database.engine, "checkout", checked_out)
        return database

    return staticmethod(created)


def checked_out(connection: Any, record: Any, _: Any) -> None:
    """A connection is taken from its pool; it may have been opened before anybody listened."""
    if record.info.get(KEEPS_JOURNAL) or not isinstance(connection, sqlite3.Connection):
        return
    record.info[KEEPS_JOURNAL] = False
    # Whatever is wrong, the next statement tells of it, and the next checkout looks again.
    with contextlib.suppress(sqlite3.Error), contextlib.closing(connection.cursor()) as cursor:
        [mode] = cursor.execute("PRAGMA journal_mode").fetchone()
        if mode == "delete":  # else it is somebody's choice, or there is no file
            cursor.execute("PRAGMA journal_mode=PERSIST").fetchone()
        record.info[KEEPS_JOURNAL] = True
