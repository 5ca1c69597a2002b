"""Other live processes that have the executor id of this one, and so take its runs over.

A launched process holds a lock that its end releases, however it ends, and looks who else does. The
lock is shared: whoever comes third finds the second, also when the first has gone.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import threading
import time
from typing import Any, Protocol

import sqlalchemy as sa

from crewai_dbos import _patches
from crewai_dbos._dbos_seam.recovering import Recovering, recovering
from crewai_dbos._journal import run_scope
from crewai_dbos._threads import off_the_loop

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("crewai_dbos")

_WAITS = 20
_WAIT_SECONDS = 0.05
"""For as long as that a database may see a process that was killed."""


class Sign(Protocol):
    """That this process lives, for others to see."""

    def others(self) -> bool:
        """Whether another process shows the same."""

    def withdraw(self) -> None:
        """Show it no more."""

    def leave_to_parent(self) -> None:
        """This is a fork of the process that shows it: keep nothing of it alive."""


_lock = threading.Lock()
_sign: Sign | None = None


def watch() -> None:
    """A definition is made: from now on each launch looks for others, and that of before does."""
    _patches.apply(_patches.DEFINITION)
    look()


def destroying(destroy: Any) -> Any:
    """`DBOS.destroy`, after which this process recovers nothing."""

    @functools.wraps(destroy.__func__)
    def destroyed(cls: Any, **options: Any) -> None:
        try:
            destroy.__func__(cls, **options)
        finally:
            withdraw()

    made: Any = destroyed
    return classmethod(made)


def look() -> None:
    """Say if another process recovers the same runs, once this one is launched."""
    try:
        taken_by = off_the_loop(_shared_executor_id)
    except Exception:
        # A database without such locks, a folder that can't be written to.
        logger.debug("Whether other processes have this executor_id is not known", exc_info=True)
        return
    if taken_by is not None:
        run_scope.warn_once(
            f"Another live process has the executor_id {taken_by!r} on this database. Each launch "
            "recovers all unfinished runs of its executor_id: the process that is launched last "
            "takes over what the other is at work at, and makes its calls in flight again. Give "
            "each process an executor_id of its own that it keeps over restarts, in the DBOS "
            "config or as DBOS__VMID. To only look at runs, don't launch: "
            "retrieve(run_id, client=DBOSClient(system_database_url=...))."
        )


def _shared_executor_id() -> str | None:
    """The executor id of this process, if another live one has it; shows that this one has it."""
    global _sign
    found = recovering()
    with _lock:
        if found is None or _sign is not None:
            return None
        if found.engine.dialect.name != "postgresql":
            _sign = _BesideSqlite(found)
        elif found.has_sessions:
            _sign = _OnPostgres(found)
        else:
            return None
        for _ in range(_WAITS):
            if not _sign.others():
                return None
            time.sleep(_WAIT_SECONDS)
        return found.executor_id


def withdraw() -> None:
    """This process recovers nothing any more."""
    global _sign
    with _lock, contextlib.suppress(Exception):
        sign, _sign = _sign, None
        if sign is not None:
            sign.withdraw()


def _leave_to_parent() -> None:
    global _sign, _lock
    sign, _lock = _sign, threading.Lock()
    if sign is not None:
        _sign = _Inherited()
        with contextlib.suppress(Exception):
            sign.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _number(found: Recovering, bits: int) -> int:
    """What stands for the runs that are recovered, as a number."""
    whose = (found.schema, found.application, found.version, found.executor_id)
    digest = hashlib.sha256(repr(("crewai_dbos", *whose)).encode()).digest()
    return int.from_bytes(digest, "big") >> (8 * len(digest) - bits)


class _Inherited:
    """In a fork: nothing, until it launches a DBOS of its own."""

    def others(self) -> bool:
        return False

    def withdraw(self) -> None: ...

    leave_to_parent = withdraw


class _OnPostgres:
    """An advisory lock of a session, which ends with its connection."""

    _OTHERS = sa.text(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 "
        "AND classid = :high AND objid = :low AND pid <> pg_backend_pid() AND database = "
        "(SELECT oid FROM pg_database WHERE datname = current_database())"
    )

    def __init__(self, found: Recovering) -> None:
        number = _number(found, 63)
        self._key = {"high": number >> 32, "low": number & 0xFFFFFFFF}
        self._connection = found.engine.connect()
        try:
            # DBOS's pool makes another one in its place.
            self._connection.detach()
            # A machine that is gone says nothing: without these its session lives for hours.
            for name, value in (("idle", 10), ("interval", 5), ("count", 3)):
                self._connection.execute(sa.text(f"SET tcp_keepalives_{name} = {value}"))
            lock = sa.text("SELECT pg_advisory_lock_shared(:number)")
            self._connection.execute(lock, {"number": number})
            self._connection.commit()
        except BaseException:
            self._connection.close()
            raise

    def others(self) -> bool:
        found = self._connection.execute(self._OTHERS, self._key).scalar()
        self._connection.commit()
        return bool(found)

    def withdraw(self) -> None:
        self._connection.close()

    def leave_to_parent(self) -> None:
        # Closed in the usual way it would end the parent's session; kept, it would outlive it.
        driver: Any = self._connection.connection.dbapi_connection
        with open(os.devnull, "r+b") as nothing:
            os.dup2(nothing.fileno(), driver.fileno())


class _BesideSqlite:
    """A lock on one byte of a file beside the database's, which ends with the process.

    Not of the database's own file: where that is closed once, all locks of SQLite's on it are lost.
    """

    def __init__(self, found: Recovering) -> None:
        path = found.engine.url.database
        if fcntl is None or not path or not os.path.isfile(path):
            raise OSError(f"no file to lock: {path}")
        self._offset = _number(found, 56)
        beside = os.path.realpath(path) + "-executors"
        mode = os.stat(path).st_mode & 0o666
        self._file = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
        try:
            self._locked(fcntl.LOCK_SH)
        except BaseException:
            os.close(self._file)
            raise

    def others(self) -> bool:
        if not self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
            return True
        self._locked(fcntl.LOCK_SH)
        return False

    def _locked(self, how: int) -> bool:
        try:
            # Of the process, unlike flock: a fork of it has none.
            fcntl.lockf(self._file, how, 1, self._offset)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def withdraw(self) -> None:
        os.close(self._file)

    leave_to_parent = withdraw
