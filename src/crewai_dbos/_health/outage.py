"""Whether a worker's database is away, by its calls that fail and its beats that are answered."""

from __future__ import annotations

import math
import threading
from enum import Enum

from crewai_dbos import _clock

LASTS = 2.0
"""Seconds in which calls fail and no beat is answered, after which the database is away."""

QUIET = 3.0
"""Seconds without a failure, after which one that was away is back."""

_TIMES = 4
_RECURS = 10.0
"""So many times in so many seconds at least, calls fail beside others that are answered."""

_CALM = 100.0
"""Seconds without a failure, after which none fail any more: DBOS tries again after up to 90."""

_APART = 0.5
"""Failures within so many seconds have failed at one time."""


class Told(Enum):
    """What the log has said."""

    NOTHING = "nothing"
    SOME = "some calls fail"
    ALL = "the database does not answer"


class Outage:
    """What is to be told, once each. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told = Told.NOTHING
        self._begun = 0.0  # of what is told
        self._back: float | None = None
        self._answered = -math.inf  # when the last beat that was answered was begun
        self._last = -math.inf
        self._unanswered: float | None = None  # the first failure since then
        self._first = 0.0  # failure of those that recur
        self._times = 0

    def failed(self, waited: float = 0.0) -> Told | None:
        """A call has, after so many seconds in which nothing came. Returns what is to be told."""
        with self._lock:
            now = _clock.seconds()
            begun = now - waited if now - waited > self._answered else now
            if self._times == 0 or now - self._last > _CALM:
                self._first, self._times = begun, 0
            if self._times == 0 or now - self._last > _APART:
                self._times += 1
            self._last, self._back = now, None
            if self._unanswered is None:
                self._unanswered = begun
            # A call that was begun earlier may end later than others.
            self._unanswered = min(self._unanswered, begun)
            return self._found(now)

    def _found(self, now: float) -> Told | None:
        since = now if self._unanswered is None else self._unanswered
        if self._told is not Told.ALL and now - since >= LASTS:
            self._told, self._begun = Told.ALL, since
            return Told.ALL
        recurs = self._times >= _TIMES and now - self._first >= _RECURS
        if self._told is Told.NOTHING and recurs and self._answered >= self._first:
            self._told, self._begun = Told.SOME, self._first
            return Told.SOME
        return None

    def answered(self, since: float) -> tuple[Told, float] | None:
        """A beat that was begun then has been.

        Returns:
            What was told and is over now, and how many seconds it lasted. It is over when none has
            failed for a while, as some that wait to try again do so only when others were answered.
        """
        with self._lock:
            self._answered = max(self._answered, since)
            if self._unanswered is not None and since >= self._unanswered:
                self._unanswered = None
            if self._told is Told.NOTHING or since < self._last:
                return None
            if self._back is None:
                self._back = since
            is_all, quiet = self._told is Told.ALL, _clock.seconds() - self._last
            if quiet < (QUIET if is_all else _CALM):
                return None
            over = self._told, (self._back if is_all else self._last) - self._begun
            self._told, self._times = Told.NOTHING, 0
        return over
