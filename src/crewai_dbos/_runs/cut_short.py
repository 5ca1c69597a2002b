"""Runs that this process has cut short, as whoever waited for one did not any more.

Their rows say that this process carries them out. It takes one up again when it is asked for, or
at once if there is a worker here.
"""

from __future__ import annotations

import contextlib

from crewai_dbos._dbos_seam import recovering
from crewai_dbos._threads import start_thread

_left: dict[str, str] = {}


def leave(run_id: str, owner_xid: str) -> None:
    """The execution `owner_xid` of a run has ended here before the run has."""
    _left[run_id] = owner_xid


def take_up(run_id: str) -> bool:
    """Put a run back on its queue that was left, unless somebody has taken it up since.

    Waits for a database that is away.
    """
    owner_xid = _left.get(run_id)
    if owner_xid is None:
        return False
    goes_on = recovering.go_on(run_id, owner_xid, {})
    # Not before: who is interrupted while the database is away asks for it once more.
    if _left.get(run_id) == owner_xid:
        _left.pop(run_id, None)
    return goes_on


def take_up_soon(run_id: str) -> None:
    """The same, by a thread. If it fails, a worker does so after a lease."""

    def work() -> None:
        with contextlib.suppress(Exception):
            take_up(run_id)

    start_thread(work)
