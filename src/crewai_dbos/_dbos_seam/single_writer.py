"""Transactions on SQLite, which lets one connection write at a time.

Threads that write on connections of their own poll for the lock, and each finds that another has
changed the file, so it reads the pages anew. Here they take turns on one connection.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import ref

import sqlalchemy as sa

from crewai_dbos._dbos_seam.sqlite_journal import KEEPS_JOURNAL


class SingleWriter:
    """One connection to a database, for one transaction at a time. Threads share it.

    Args:
        engine: Of the database. Its pool has as many connections as without this.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = ref(engine)  # which may hold, through DBOS, what holds this
        self._turn = threading.Lock()
        self._connection: sa.Connection | None = None
        self._closed = False

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A transaction, which is committed at the end of the block. It waits for those before."""
        try:
            with self._turn:
                try:
                    connection = self._open()
                    with connection.begin():
                        yield connection
                finally:
                    if self._is_unclear():
                        self._let_go()
        finally:
            if self._closed:  # perhaps while it was this thread's turn
                self.close()

    def close(self) -> None:
        """Keep no connection any more: at once, or when the transaction that is open has ended.

        A thread that comes later has one for its own transaction.
        """
        self._closed = True
        if self._turn.acquire(blocking=False):
            try:
                self._let_go()
            finally:
                self._turn.release()

    def _open(self) -> sa.Connection:
        if self._connection is None:
            engine = self._engine()
            assert engine is not None  # whoever writes has it
            connection = engine.connect()
            connection.detach()
            self._connection = connection
        return self._connection

    def _is_unclear(self) -> bool:
        """Whether the next transaction might have something of this one, which was not undone.

        Or be lost with the power: it is not known that the connection keeps its journal. Else it is
        kept after a failure, too: where the file was taken away, another one would make an empty
        file in its place.
        """
        connection = self._connection
        if connection is None or connection.invalidated:
            return connection is not None
        opened = connection.connection
        if connection.in_transaction() or getattr(opened.dbapi_connection, "in_transaction", True):
            return True
        return opened.info.get(KEEPS_JOURNAL) is False

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        opened = None if connection.invalidated else connection.connection.dbapi_connection
        connection.close()
        if opened is not None:
            opened.close()  # SQLAlchemy leaves it open where it can't roll back
