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
from contextlib import contextmanager
from typing import Any
from weakref import ref

import sqlalchemy as sa

from crewai_dbos._dbos_seam.sqlite_journal import KEEPS_JOURNAL

_TRUSTED = 1.0
"""Seconds after an answer of the server's in which nobody asks whether it is still there."""

_WARM = 30.0
"""Seconds after which a firewall may have forgotten a connection that nothing went over."""

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
        self._opened: Any = None  # what the driver has opened for it
        self._answered = 0.0
        self._closed = False

    @contextmanager
    def turn(self) -> Iterator[sa.Connection]:
        """A connection on which a statement is a transaction.

        On SQLite a thread waits for those before; else, where this one is in use, it has another.
        """
        try:
            if self._takes_turns:
                with self._turn, self._used() as connection:
                    yield connection
            elif self._turn.acquire(blocking=False):
                try:
                    with self._used() as connection:
                        yield connection
                finally:
                    self._turn.release()
            else:
                with at_once(self._engine_of_it()) as connection:
                    yield connection
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

    @contextmanager
    def _used(self) -> Iterator[sa.Connection]:
        """It is this thread's turn."""
        if not self._takes_turns:
            self._give_back_what_is_old()
        try:
            connection = self._open()
            with connection.begin():
                yield connection
            self._answered = time.monotonic()
        except BaseException:
            # A session of a server may be what is wrong. On SQLite another connection would make an
            # empty file where this one's was taken away.
            if not self._takes_turns:
                self._let_go()
            raise
        finally:
            if self._is_unclear():
                self._let_go()

    def _engine_of_it(self) -> sa.Engine:
        engine = self._engine()
        assert engine is not None  # whoever writes has it
        return engine

    def _open(self) -> sa.Connection:
        if self._connection is None:
            connection = self._engine_of_it().connect()
            try:
                self._opened = connection.connection.dbapi_connection
                if self._takes_turns:
                    # Its pool may have this one only.
                    connection.detach()
                    # Not by an option: SQLAlchemy would take it back from the pool's next one.
                    connection.dialect.set_isolation_level(self._opened, _AT_ONCE)
                else:
                    connection.execution_options(isolation_level=_AT_ONCE)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _give_back_what_is_old(self) -> None:
        """To the pool, which asks for it, or has another; or to nobody, if it may be dead."""
        unused = time.monotonic() - self._answered
        if self._connection is None or unused < _TRUSTED:
            return
        if unused > _WARM:
            self._let_go()
        else:
            connection, self._connection = self._connection, None
            connection.close()

    def _is_unclear(self) -> bool:
        """Whether the next transaction might have something of this one, which was not undone.

        Or be lost with the power: it is not known that the connection keeps its journal.
        """
        connection = self._connection
        if connection is None or connection.invalidated:
            return connection is not None
        # Only of SQLite's it may be: another is committed here, or was let go.
        if getattr(self._opened, "in_transaction", False):
            return True
        return connection.connection.info.get(KEEPS_JOURNAL) is False

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if not connection.invalidated:
            connection.invalidate()  # which its pool would else give to DBOS
        self._opened.close()  # of SQLite it has no pool
        connection.close()


@contextmanager
def at_once(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection of the pool on which a statement is a transaction."""
    with engine.connect() as connection:
        # SQLite's pool would give it to DBOS in another mode than DBOS's.
        if engine.dialect.name != "sqlite":
            connection.execution_options(isolation_level=_AT_ONCE)
        with connection.begin():
            yield connection


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
