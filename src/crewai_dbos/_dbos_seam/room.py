"""SQLite's file can't be written for now: runs wait, and say so.

DBOS waits for a Postgres that is away, and for a SQLite that somebody else writes to. At a full
disk, or a file that is read-only, it would end a run where it stands, and its last call would be
made again.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import OperationalError

from crewai_dbos._dbos_seam.instance import engine, is_shut_down

logger = logging.getLogger("crewai_dbos")

_QUIET = 180.0
"""Seconds without such an error, after which the next is told of: DBOS tries again more often."""

_REASONS = {
    "database or disk is full": (
        "The disk of {file} is full, or its quota is used up. Make room; crewai-dbos runs prune "
        "deletes old runs"
    ),
    "attempt to write a readonly database": (
        "{file} is read-only for this process. Give it the right to write the file and its folder"
    ),
}

_lock = threading.Lock()
_last: dict[str, float] = {}


def waiting_for_room(is_retriable: Callable[[Exception], bool]) -> Callable[[Exception], bool]:
    """Whether DBOS tries again after an error of SQLite: also if it can't write for now."""

    @functools.wraps(is_retriable)
    def is_retriable_now(error: Exception) -> bool:
        if is_retriable(error):
            return True
        reason = _reason(error)
        if reason is None or is_shut_down():
            return False
        file = engine().url.database
        if not file or not os.path.exists(file):
            return False  # it was deleted, which SQLite calls read-only, too
        _say(reason, file)
        return True

    return is_retriable_now


def _reason(error: Exception) -> str | None:
    told = str(error.orig) if isinstance(error, OperationalError) else ""
    return next((reason for reason in _REASONS if reason in told), None)


def _say(reason: str, file: str) -> None:
    with _lock:
        now, before = time.monotonic(), _last.get(reason)
        _last[reason] = now
    if before is None or now - before > _QUIET:
        logger.error(
            "%s. Until then runs wait, and so does whoever begins one. Nothing is lost and no call "
            "is made again: they go on within two minutes after that.",
            _REASONS[reason].format(file=file),
        )
