"""What a database's driver is asked to execute, through SQLAlchemy or not."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa


@contextmanager
def heard(hear: Callable[[Any, str], None]) -> Iterator[None]:
    """Connections that are opened in the block tell of what they execute.

    Args:
        hear: Called with a connection of the driver's and a statement, on the thread that executes
            it. Transactions, and what a pool asks, are not told of.
    """

    def tell(connection: Any, statement: str) -> None:
        asked = statement in (";", "SELECT 1")
        if not asked and not statement.startswith(("BEGIN", "COMMIT", "ROLLBACK", "PRAGMA")):
            hear(connection, statement)

    class Telling(psycopg.Cursor[Any]):
        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            tell(self.connection, str(query))
            return super().execute(query, *args, **kwargs)

    def opened(connection: Any, _: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.set_trace_callback(lambda statement: tell(connection, statement))
        else:
            connection.cursor_factory = Telling

    sa.event.listen(sa.Engine, "connect", opened)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "connect", opened)
