"""What a function returns that may hang, asked for once for all who want to know it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from crewai_dbos._threads import start_thread

logger = logging.getLogger("crewai_dbos")

T = TypeVar("T")


class _Asked(Generic[T]):
    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.answered: float | None = None
        self.value: T | None = None
        self.over = threading.Event()


class Shared(Generic[T]):
    """The answers of `function`, which is called by one thread at a time.

    Args:
        function: Asks a database.
        what: What it does, in words.
        kept: Seconds for which an answer is good enough; that there was none, too.
        bound: Seconds that anybody waits for one.
        given_up: Seconds after which a call without an answer is left behind for another.
    """

    def __init__(
        self,
        function: Callable[[], T],
        what: str,
        *,
        kept: float = 10.0,
        bound: float = 3.0,
        given_up: float = 300.0,
    ) -> None:
        self._function = function
        self._what = what
        self._kept = kept
        self._bound = bound
        self._given_up = given_up
        self._lock = threading.Lock()
        self._asked: _Asked[T] | None = None
        self._is_told = False

    def value(self) -> T | None:
        """The answer; None if there is none in time."""
        with self._lock:
            asked = self._asked
            if asked is None or self._is_over(asked):
                asked = _Asked()
                start_thread(lambda: self._ask(asked), name="crewai-dbos-health")
                self._asked = asked  # not if there is no thread that would answer it
        asked.over.wait(max(0.0, asked.begun + self._bound - time.monotonic()))
        return asked.value

    def _is_over(self, asked: _Asked[T]) -> bool:
        now = time.monotonic()
        if asked.answered is None:
            return now - asked.begun > self._given_up
        return now - asked.answered > self._kept

    def _ask(self, asked: _Asked[T]) -> None:
        try:
            asked.value = self._function()
            self._is_told = False
        except Exception as error:  # of the database
            if not self._is_told:
                self._is_told = True
                logger.warning("Can't %s (%s); tried again.", self._what, type(error).__name__)
        finally:
            asked.answered = time.monotonic()
            asked.over.set()
