"""Fresh databases of one kind, each a copy of one that DBOS has migrated."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
from dbos import DBOS
from sqlalchemy.engine import make_url

from crewai_dbos import _private_files
from crewai_dbos.testing.crash.errors import CrashTestError


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

    @contextlib.contextmanager
    def fresh(self) -> Iterator[str]:
        """The URL of an empty database, which is gone when the block is left."""
        with self._lock:
            self._template = self._template or self._migrated()
            number = next(self._numbers)
            name = f"{self._prefix}_{number}"
            if self._postgres is None:
                path = self._directory / f"{name}.sqlite"
                _private_files.create(path)
                shutil.copyfile(self._template, path)
                url = f"sqlite:///{path}"
            else:
                self._execute(f"CREATE DATABASE {name} TEMPLATE {self._template}")
                url = self._url(name)
        try:
            yield url
        finally:
            if self._postgres is None:
                for left in self._directory.glob(f"{name}.sqlite*"):
                    left.unlink()
            else:
                self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def close(self) -> None:
        if self._postgres is not None and self._template:
            self._execute(f"DROP DATABASE {self._template} WITH (FORCE)")

    def _migrated(self) -> str:
        if self._postgres is None:
            path = self._directory / f"{self._prefix}.sqlite"
            _private_files.create(path)
            DBOS.migrate(f"sqlite:///{path}")
            return str(path)
        name = f"{self._prefix}_template"
        self._execute(f"CREATE DATABASE {name}")
        DBOS.migrate(self._url(name))
        return name

    def _url(self, name: str) -> str:
        assert self._postgres is not None
        return self._postgres.set(database=name).render_as_string(hide_password=False)

    def _execute(self, sql: str) -> None:
        assert self._postgres is not None
        url = self._postgres.set(drivername="postgresql+psycopg")
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        try:
            with engine.connect() as connection:
                connection.execute(sa.text(sql))
        except sa.exc.OperationalError as error:
            raise CrashTestError(f"{self._postgres} can't be used: {error.orig}") from error


def _postgres(url: str) -> sa.URL:
    try:
        found = make_url(url)
    except sa.exc.ArgumentError:
        found = None
    if found is None or found.get_backend_name() != "postgresql":
        raise CrashTestError(f"The database is sqlite or postgresql://..., not {url!r}.")
    return found
