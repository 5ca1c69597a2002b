"""The database can't be written for now: runs wait, and say so once.

DBOS waits for a Postgres that is away or has no room, and for a SQLite that somebody else writes
to. With another one that is full or read-only it would end a run where it stands, and its last call
would be made again.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import DBAPIError, OperationalError

from crewai_dbos._dbos_seam.instance import engine, has_left_database

logger = logging.getLogger("crewai_dbos")

_QUIET = 180.0
"""Seconds without such an error, after which the next is told of: DBOS tries again more often."""

_REASONS = {
    "database or disk is full": (
        "The disk of {database} is full, or its quota is used up. Make room; crewai-dbos runs "
        "prune deletes old runs"
    ),
    "attempt to write a readonly database": (
        "{database} is read-only for this process. Give it the right to write the file and its "
        "folder"
    ),
    "53100": "The disk of the Postgres of {database!r} is full. Make room",
    "25006": (
        "The Postgres of {database!r} is read-only, as a replica is, or a server with little room. "
        "Look at its disk, and at where its URL leads"
    ),
}
"""What to do, by what SQLite says, or the code of Postgres."""

_lock = threading.Lock()
_last: dict[str, float] = {}


def wait_until_writable(
    is_retriable: Callable[[Exception], bool],
) -> Callable[[Exception], bool]:
    """Whether DBOS tries again after an error: also if the database can't be written for now.

    Args:
        is_retriable: DBOS's own word, for SQLite or for Postgres.
    """

    @functools.wraps(is_retriable)
    def is_retriable_now(error: Exception) -> bool:
        reason = _reason(error)
        if reason is None or has_left_database():
            return is_retriable(error)
        url = engine().url
        if url.get_backend_name() == "sqlite" and not os.path.exists(url.database or ""):
            return is_retriable(error)  # it was deleted, which SQLite calls read-only, too
        _say(reason, url.database or "")
        return True

    return is_retriable_now


def _reason(error: Exception) -> str | None:
    if not isinstance(error, DBAPIError):
        return None
    code = getattr(error.orig, "sqlstate", None)
    if code is not None:
        return code if code in _REASONS else None
    told = str(error.orig) if isinstance(error, OperationalError) else ""
    return next((reason for reason in _REASONS if reason in told), None)


def _say(reason: str, database: str) -> None:
    with _lock:
        now, before = time.monotonic(), _last.get(reason)
        _last[reason] = now
    if before is None or now - before > _QUIET:
        logger.error(
            "%s. Until then runs wait, and so does whoever begins one. Nothing is lost and no call "
            "is made again: they go on within two minutes after that.",
            _REASONS[reason].format(database=database),
        )
