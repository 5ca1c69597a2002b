"""A connection on which a statement is a transaction, and which is there for the next one, too.

DBOS's pool asks the server each time whether a connection is still there, and that takes about as
long as to record. On SQLite, which lets one connection write at a time, threads that write on
connections of their own poll for the lock, and each finds that another has changed the file, so it
reads the pages anew. There they take turns on this one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from weakref import ref

import sqlalchemy as sa
from psycopg.pq import TransactionStatus

from crewai_dbos._dbos_seam.sqlite_journal import KEEPS_JOURNAL

_TRUSTED = 1.0
"""Seconds for which nobody asks whether the server is still there, after it has answered."""

_MANY = 5
"""Connections in a pool that can spare one."""

_AT_ONCE: Any = "AUTOCOMMIT"


class KeptConnection:
    """One connection to a database, for one thread at a time.

    Args:
        engine: Of the database. On SQLite, its pool has as many connections as without this; else
            it is one of them.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = ref(engine)  # which may hold, through DBOS, what holds this
        self._takes_turns = engine.dialect.name == "sqlite"
        self._turn = threading.Lock()
        self._connection: sa.Connection | None = None
        self._answered = 0.0
        self._closed = False

    @contextmanager
    def turn(self) -> Iterator[sa.Connection]:
        """A connection on which a statement is a transaction.

        On SQLite a thread waits for those before; else, where this one is in use, it has another.
        """
        if not self._turn.acquire(blocking=self._takes_turns):
            with at_once(self._engine_of_it()) as connection:
                yield connection
            return
        with ExitStack() as at_the_end:
            at_the_end.callback(self._close_again)
            at_the_end.callback(self._turn.release)
            at_the_end.callback(self._keep_what_is_clear)
            yield self._open()
            self._answered = time.monotonic()

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

    def _close_again(self) -> None:
        if self._closed:  # perhaps while it was this thread's turn
            self.close()

    def _engine_of_it(self) -> sa.Engine:
        engine = self._engine()
        assert engine is not None  # whoever writes has it
        return engine

    def _open(self) -> sa.Connection:
        if self._connection is not None and not self._is_there(self._connection):
            self._let_go()
        if self._connection is None:
            self._connection = connection = self._engine_of_it().connect()
            if self._takes_turns:
                # Its pool may have this one only.
                connection.detach()
                # Not by an option, which SQLAlchemy would take back from the next one of the pool.
                opened: Any = connection.connection.dbapi_connection
                connection.dialect.set_isolation_level(opened, _AT_ONCE)
            else:
                connection.execution_options(isolation_level=_AT_ONCE)
        return self._connection

    def _is_there(self, connection: sa.Connection) -> bool:
        """Whether the server has answered lately, or does now."""
        if self._takes_turns or time.monotonic() - self._answered < _TRUSTED:
            return True
        opened: Any = connection.connection.dbapi_connection
        try:
            return bool(connection.dialect.do_ping(opened))
        except connection.dialect.loaded_dbapi.Error:
            return False

    def _keep_what_is_clear(self) -> None:
        if self._is_unclear():
            self._let_go()

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
        return _in_transaction(opened.dbapi_connection) or opened.info.get(KEEPS_JOURNAL) is False

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if not connection.invalidated:
            opened: Any = connection.connection.dbapi_connection
            connection.invalidate()  # which its pool would else give to DBOS
            opened.close()  # of SQLite it has no pool
        connection.close()


def _in_transaction(opened: Any) -> bool:
    if hasattr(opened, "in_transaction"):
        return bool(opened.in_transaction)
    return bool(opened.info.transaction_status != TransactionStatus.IDLE)


def at_once(engine: sa.Engine) -> AbstractContextManager[sa.Connection]:
    """A connection of the pool on which a statement is a transaction."""
    if (
        engine.dialect.name == "sqlite"
    ):  # which the pool would give back in another mode than DBOS's
        return engine.begin()
    return engine.connect().execution_options(isolation_level=_AT_ONCE)


def can_be_kept(engine: sa.Engine) -> bool:
    """Whether there is one to spare, to the same database, and of a driver that is known here.

    A database in memory may be there for its one connection only, which the pool then keeps.
    """
    driver, pool = engine.dialect.driver, engine.pool
    if driver not in ("psycopg", "pysqlite") or not isinstance(pool, sa.QueuePool):
        return False
    if driver == "psycopg":
        return pool.size() >= _MANY
    with engine.connect() as connection:
        [[_, _, file], *_] = connection.exec_driver_sql("PRAGMA database_list").all()
    return bool(file)
