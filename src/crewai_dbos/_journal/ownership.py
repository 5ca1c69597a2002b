"""Whether a run may have been given to another process while this one stood still."""

from __future__ import annotations

from typing import Protocol

from dbos import error as dbos_errors

from crewai_dbos._threads import on_a_thread


class Gate(Protocol):
    """Says whose a run is, where that is in doubt."""

    def is_open(self, run_id: str, owner_xid: str | None) -> bool:
        """Whether there is no doubt about this execution of the run."""

    def is_lost(self, run_id: str, owner_xid: str | None) -> bool:
        """Whether another process has it; asks the database."""


_gate: Gate | None = None


def check_with(gate: Gate | None) -> None:
    """From now on ask `gate` before each call that is made; None to ask nobody."""
    global _gate
    _gate = gate


def lost(run_id: str, owner_xid: str | None) -> BaseException | None:
    """What ends this execution of a run that another process has taken; None if it goes on."""
    gate = _gate
    if gate is None or gate.is_open(run_id, owner_xid) or not gate.is_lost(run_id, owner_xid):
        return None
    return dbos_errors.DBOSWorkflowConflictIDError(run_id)


async def alost(run_id: str, owner_xid: str | None) -> BaseException | None:
    """As `lost`, for async code: an event loop does not wait for the database."""
    if _gate is None or _gate.is_open(run_id, owner_xid):
        return None
    return await on_a_thread(lambda: lost(run_id, owner_xid))
