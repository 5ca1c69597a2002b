"""Fresh databases of one kind, each a copy of one that DBOS has migrated."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from dbos import DBOS
from sqlalchemy.engine import make_url

from crewai_dbos import _private_files
from crewai_dbos.control import Control
from crewai_dbos.testing.crash.errors import CrashTestError

# A server process whose client was killed may still be at work: it is waited for.
_DISCONNECT = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_OWN = "JOIN pg_namespace n ON n.oid = {}namespace WHERE nspname !~ '^(pg_|information_schema$)'"
_OBJECTS = f"""
SELECT nspname, relname FROM pg_class {_OWN.format("rel")}
UNION ALL SELECT nspname, proname FROM pg_proc {_OWN.format("pro")} ORDER BY 1, 2
"""
_EMPTY = f"""
DO $$ DECLARE own text; BEGIN
FOR own IN SELECT format('%I.%I', nspname, relname) FROM pg_class {_OWN.format("rel")}
AND relkind = 'r' AND relname !~ 'migrations$'
LOOP EXECUTE 'DELETE FROM ' || own; END LOOP;
END $$
"""


class Databases:
    """Opens databases, any number at the same time.

    Args:
        kind: ``sqlite``, or the URL of any database on a Postgres server, whose user may create
            databases there.
        directory: For the files of SQLite.
    """

    def __init__(self, kind: str, directory: Path) -> None:
        self._postgres = None if kind == "sqlite" else _postgres(kind)
        self._prefix = f"crash_{secrets.token_hex(4)}"
        self._directory = directory
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._template = ""
        self._objects: list[Any] = []  # of the template
        self._emptied: list[str] = []

    @contextlib.contextmanager
    def fresh(self) -> Iterator[str]:
        """The URL of an empty database, which is gone when the block is left."""
        with self._lock:
            self._template = self._template or self._migrated()
            number = next(self._numbers)
        name = f"{self._prefix}_{number}"
        with self._file(name) if self._postgres is None else self._on_postgres(name) as url:
            yield url

    @contextlib.contextmanager
    def _file(self, name: str) -> Iterator[str]:
        path = self._directory / f"{name}.sqlite"
        _private_files.create(path)
        shutil.copyfile(self._template, path)
        try:
            yield f"sqlite:///{path}"
        finally:
            for left in self._directory.glob(f"{name}.sqlite*"):
                left.unlink()

    @contextlib.contextmanager
    def _on_postgres(self, name: str) -> Iterator[str]:
        with self._lock:
            # Postgres takes 0.4 s to copy a database, and a millisecond to empty one.
            found = self._emptied.pop() if self._emptied else ""
            if not found:
                self._execute(f"CREATE DATABASE {name} TEMPLATE {self._template}")
        name = found or name
        try:
            yield self._url(name)
        finally:
            with self._lock:
                if self._is_emptied(name):
                    self._emptied.append(name)
                else:
                    self._drop(name)

    def _is_emptied(self, name: str) -> bool:
        """Whether nothing of what was done in a database is left, and nobody is connected to it."""
        try:
            with self._connected(name) as connection:  # most of what all of this costs
                connection.execute(_DISCONNECT)
                if connection.execute(_OBJECTS).fetchall() != self._objects:
                    return False  # the program has made some of its own
                connection.execute(_EMPTY)
        except CrashTestError:
            return False
        return True

    def _drop(self, name: str) -> None:
        self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def close(self) -> None:
        for name in self._emptied:
            self._drop(name)
        if self._postgres is not None and self._template:
            self._drop(self._template)

    def _migrated(self) -> str:
        if self._postgres is None:
            path = self._directory / f"{self._prefix}.sqlite"
            _private_files.create(path)
            migrate(f"sqlite:///{path}")
            return str(path)
        name = f"{self._prefix}_template"
        self._execute(f"CREATE DATABASE {name}")
        migrate(self._url(name))
        with self._connected(name) as connection:
            self._objects = connection.execute(_OBJECTS).fetchall()
        return name

    def _url(self, name: str) -> str:
        assert self._postgres is not None
        return self._postgres.set(database=name).render_as_string(hide_password=False)

    def _execute(self, sql: str) -> None:
        with self._connected() as connection:
            connection.execute(sql)

    @contextlib.contextmanager
    def _connected(self, database: str | None = None) -> Iterator[psycopg.Connection]:
        """By default to the database that the server was named with."""
        assert self._postgres is not None
        url = self._postgres.set(drivername="postgresql")
        if database is not None:
            url = url.set(database=database)
        try:
            with psycopg.connect(url.render_as_string(False), autocommit=True) as connection:
                yield connection
        except psycopg.Error as error:
            raise CrashTestError(f"{self._postgres} can't be used: {error}") from error


def migrate(url: str) -> None:
    """Make DBOS's tables, and ours."""
    DBOS.migrate(url)
    Control(url).close()


def _postgres(url: str) -> sa.URL:
    try:
        found = make_url(url)
    except sa.exc.ArgumentError:
        found = None
    if found is None or found.get_backend_name() != "postgresql":
        raise CrashTestError(f"The database is sqlite or postgresql://..., not {url!r}.")
    return found
