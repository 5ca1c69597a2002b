"""Whether a run that this worker carries out may be another's by now."""

from __future__ import annotations

import threading
from collections.abc import Callable

from crewai_dbos._fleet.bounded import clock

Owner = Callable[[str], str | None]
"""Returns which execution of a run may record."""


class Gate:
    """What is asked before a call, when peers may have taken this worker for dead.

    That is so while its lease may have run out; and from such a gap on, once for each execution: a
    beat that comes again says nothing about what was taken meanwhile.

    Args:
        seconds: For how long a lease lasts.
        at_work: Returns the ids of the runs that this process carries out.
        owner: Says whose a run is.
    """

    def __init__(self, seconds: float, at_work: Callable[[], list[str]], owner: Owner) -> None:
        self._seconds = seconds
        self._at_work = at_work
        self._owner = owner
        self._beaten = clock()
        self._gaps = 0
        self._asked: dict[str, str | None] = {}
        self._lock = threading.Lock()

    def beaten(self, since: float, *, was_late: bool = False) -> None:
        """The lease was beaten; that was begun at `since`.

        Args:
            was_late: It had run out, whatever the clock of this process says.
        """
        with self._lock:
            if was_late or self._is_overdue():
                self._gaps += 1
                self._asked.clear()
            self._beaten = since

    def is_open(self, run_id: str, owner_xid: str | None) -> bool:
        """Whether the execution goes on without being asked about."""
        with self._lock:
            if self._is_overdue():
                return False
            return self._gaps == 0 or self._asked.get(run_id, _NOBODY) == owner_xid

    def is_lost(self, run_id: str, owner_xid: str | None) -> bool:
        """Whether another process has the run. This asks the database, and waits for it."""
        with self._lock:
            gaps = None if self._is_overdue() else self._gaps
        if self._owner(run_id) != owner_xid:
            return True
        with self._lock:
            if gaps == self._gaps:  # it was asked when no peer could take it any more
                self._asked[run_id] = owner_xid
                if len(self._asked) > _REMEMBERED:
                    here = set(self._at_work())
                    self._asked = {id: xid for id, xid in self._asked.items() if id in here}
        return False

    def unbeaten_for(self) -> float:
        """Seconds since the lease was beaten."""
        return clock() - self._beaten

    def _is_overdue(self) -> bool:
        return clock() - self._beaten >= self._seconds


_NOBODY = ""
"""Is the token of no execution."""

_REMEMBERED = 1000
"""When so many have been asked about, those that have ended are forgotten."""
