"""One time that a process carries out a run, and whether the run is still its own.

A call begins only where that was so a moment ago. So a run in which all is quick is never looked
up: whoever records an entry knows that the run was still its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from dbos import error as dbos_errors

from crewai_dbos import _clock
from crewai_dbos._dbos_seam.database import CANCELLED, Database, RunRow, launched_database
from crewai_dbos._dbos_seam.stopping import cancels
from crewai_dbos._journal.latch import Latch
from crewai_dbos._threads import off_the_loop, on_a_thread

RECENT = 0.25
"""Seconds for which a run that was seen to be this execution's is taken to be so."""


class Moment(NamedTuple):
    """When a run was looked at.

    Attributes:
        cancels: How often this process had cancelled runs.
        seconds: Of `_clock`.
    """

    cancels: int
    seconds: float

    @classmethod
    def now(cls) -> Moment:
        return cls(cancels(), _clock.seconds())


NEVER = Moment(-1, 0.0)


@dataclass(eq=False)
class Execution:
    """One time that DBOS runs the function of a workflow.

    Attributes:
        run_id: The workflow's id.
        owner_xid: By what DBOS knows this execution; None if it does not.
        latch: What has ended it.
    """

    run_id: str
    owner_xid: str | None
    latch: Latch
    _last_seen: Moment = field(default=NEVER, init=False)

    def goes_on(self, at: Moment) -> None:
        """The run was still this execution's `at` that moment, or later."""
        self._last_seen = max(self._last_seen, at)

    def check(self, *, surely: bool = False) -> None:
        """Return if a call may begin: a moment ago the run was this execution's.

        This asks the database, on a thread without an event loop, and waits for it, if nothing
        has told so lately. What stood still meanwhile, this process or its machine, has lost that
        moment.

        Args:
            surely: Whether the database is asked, whatever was told lately.

        Raises:
            ControlSignal: The run is over.
        """
        self.latch.raise_if_over()
        if not surely and self._is_recent():
            return
        try:
            at, database = Moment.now(), launched_database()
            found = off_the_loop(
                lambda: database.patiently(lambda: rows_of(database, {self.run_id}))
            )
            error = self.lost_to(found.get(self.run_id))
        except Exception as raised:
            error = raised
        if error is not None:
            self.latch.fail(error)
        self.goes_on(at)

    async def acheck(self) -> None:
        """As `check`, for async code: an event loop does not wait for the database."""
        self.latch.raise_if_over()
        if not self._is_recent():
            await on_a_thread(self.check)

    def _is_recent(self) -> bool:
        seen, now = self._last_seen, Moment.now()
        return seen.cancels == now.cancels and now.seconds - seen.seconds < RECENT

    def lost_to(self, row: RunRow | None) -> BaseException | None:
        """What ends this execution, as the row of the run is now; None if it may go on."""
        if row is not None and row.owner_xid == self.owner_xid:
            return None
        if row is not None and row.status == CANCELLED:
            return dbos_errors.DBOSWorkflowCancelledError(f"Workflow {self.run_id} was cancelled")
        return dbos_errors.DBOSWorkflowConflictIDError(self.run_id)


def rows_of(database: Database, run_ids: Iterable[str]) -> dict[str, RunRow]:
    """The rows of these runs, as they are now."""
    with database.engine.connect() as connection:
        return database.rows(connection, run_ids)
