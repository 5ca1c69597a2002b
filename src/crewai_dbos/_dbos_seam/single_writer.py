"""Transactions on SQLite, which lets one connection write at a time.

Threads that write on connections of their own poll for the lock, and each finds that another has
changed the file, so it reads the pages anew. Here they take turns on one connection.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa


class SingleWriter:
    """One connection to a database, for one transaction at a time. Threads share it.

    Args:
        engine: Of the database. Its pool has as many connections as without this.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._turn = threading.RLock()
        self._connection: sa.Connection | None = None

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A transaction, which is committed at the end of the block. It waits for those before."""
        with self._turn:
            if self._connection is None:
                self._connection = self._engine.connect()
                self._connection.detach()
            try:
                with self._connection.begin():
                    yield self._connection
            except BaseException:  # whatever it is in now, the next one gets another
                self.close()
                raise

    def close(self) -> None:
        """Let go of the connection; the next transaction opens another."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
