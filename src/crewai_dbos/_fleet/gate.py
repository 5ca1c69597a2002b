"""Whether a run that this worker carries out may be another's by now."""

from __future__ import annotations

import threading
from collections.abc import Callable

from crewai_dbos._fleet.bounded import clock

Owner = Callable[[str], str | None]
"""Returns which execution of a run may record."""


class Gate:
    """What is asked before a call, when peers may have taken this worker for dead.

    That is so while its lease may have run out; and after such a gap, once for each execution that
    was begun before it ended: a beat that comes again says nothing about what was taken meanwhile.

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
        self._asked: dict[str, set[str | None]] = {}
        self._lock = threading.Lock()

    def beaten(self, since: float) -> None:
        """The lease was beaten; that was begun at `since`."""
        with self._lock:
            if clock() - self._beaten > self._seconds:
                self._asked = {run_id: set() for run_id in self._at_work()}
            self._beaten = since

    def is_open(self, run_id: str, owner_xid: str | None) -> bool:
        """Whether the execution goes on without being asked about."""
        with self._lock:
            return not self._is_overdue() and owner_xid in self._asked.get(run_id, {owner_xid})

    def is_lost(self, run_id: str, owner_xid: str | None) -> bool:
        """Whether another process has the run. This asks the database, and waits for it."""
        with self._lock:
            asked = None if self._is_overdue() else self._asked.get(run_id)
        if self._owner(run_id) != owner_xid:
            return True
        if asked is not None:  # it is ours, and was asked when no peer could take it any more
            asked.add(owner_xid)
        return False

    def unbeaten_for(self) -> float:
        """Seconds since the lease was beaten."""
        return clock() - self._beaten

    def _is_overdue(self) -> bool:
        return clock() - self._beaten >= self._seconds
