"""Writing events: one thread of a process does it for all runs, a batch at a time.

A run never waits for it before its end. What is not written when a process is killed is made from
the run's record when the run goes on.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections import deque

from sqlalchemy.exc import SQLAlchemyError

from crewai_dbos._dbos_seam.database import Database, launched_database
from crewai_dbos._dbos_seam.instance import is_shut_down
from crewai_dbos._events.event import Fact
from crewai_dbos._events.store import Store

logger = logging.getLogger("crewai_dbos")

EVERY = 0.1
"""Seconds for which events are gathered."""

AT_ONCE = 500
"""The most that are written in one transaction."""

MOST = 20_000
"""The most that wait to be written; others are left out."""

PATIENCE = 10.0
"""Seconds for which a run waits at its end for its events to be written."""

_IDLE = 2.0


class Writer:
    """Writes events into one database.

    Args:
        store: The events there.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._changed = threading.Condition()
        self._waiting: deque[Fact] = deque()
        self._put = 0
        self._done = 0
        self._urgent = 0
        self._told = False
        self._thread: threading.Thread | None = None

    def put(self, fact: Fact) -> None:
        """Have `fact` written soon, unless too many wait for a database that is away."""
        with self._changed:
            if len(self._waiting) >= MOST:
                self._say(f"{MOST} wait to be written, so others are left out")
                return
            self._waiting.append(fact)
            self._put += 1
            self._start()
            self._changed.notify_all()

    def flush(self, *, wait: bool = True) -> None:
        """Have everything written now that was put until now.

        Args:
            wait: Whether to wait for that.
        """
        with self._changed:
            wanted = self._put
            if self._done >= wanted:
                return
            self._urgent = max(self._urgent, wanted)
            self._start()
            self._changed.notify_all()
            if wait:
                self._changed.wait_for(lambda: self._done >= wanted, PATIENCE)

    def _start(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        self._thread = threading.Thread(target=self._write, name="crewai-dbos-events", daemon=True)
        # It works for all runs, and not for the one that has begun it.
        contextvars.Context().run(self._thread.start)

    def _write(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._waiting, _IDLE):
                    self._thread = None
                    return
                self._changed.wait_for(self._is_due, EVERY)
                batch = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
            self._write_down(batch)
            with self._changed:
                self._done += len(batch)
                self._changed.notify_all()

    def _write_down(self, batch: list[Fact]) -> None:
        try:
            self.store.database.patiently(lambda: self._add(batch))
        except _Gone:
            pass  # the runs go on in another process, and have them written there
        except Exception as error:
            told = type(error).__name__ if isinstance(error, SQLAlchemyError) else repr(error)
            self._say(f"they can't be written ({told})")

    def _is_due(self) -> bool:
        return len(self._waiting) >= AT_ONCE or self._urgent > self._done

    def _add(self, batch: list[Fact]) -> None:
        try:
            self.store.add(batch)
        except Exception as error:
            if is_shut_down() or launched_database() != self.store.database:
                raise _Gone from error
            raise

    def _say(self, why: str) -> None:
        if not self._told:
            self._told = True
            logger.warning("Events of runs are left out: %s. The runs go on.", why)


class _Gone(Exception):
    """The DBOS instance is shut down that the events are of."""


def now_ms() -> int:
    return int(time.time() * 1000)


def launched_writer() -> Writer:
    """That of the DBOS instance that is launched; made once for each."""
    global _launched
    database = launched_database()
    with _lock:
        if _launched is None or _launched.store.database != database:
            _launched = Writer(_made(database))
        return _launched


def _made(database: Database) -> Store:
    return database.patiently(lambda: Store(database))


_lock = threading.Lock()
_launched: Writer | None = None
