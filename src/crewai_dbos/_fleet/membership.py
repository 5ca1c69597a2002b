"""This process as a worker among others: it beats its lease, and goes on with dead peers' runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dbos import error as dbos_errors
from sqlalchemy.exc import SQLAlchemyError

from crewai_dbos._dbos_seam import recovering
from crewai_dbos._dbos_seam.database import Database
from crewai_dbos._fleet.leases import Definitions, Lease, Leases

logger = logging.getLogger("crewai_dbos")

LOOKS = 6
"""How often a lease is beaten, and those of peers looked at, while it lasts."""

PAUSE = 2.0
"""Seconds for which nobody takes a run that a worker without its definition has given back."""


@dataclass(frozen=True)
class Lacking:
    """A run whose definition this worker does not have.

    Attributes:
        run_id: The run's workflow id.
        owner_xid: Which execution of it was left.
        noun, name: Of the definition.
    """

    run_id: str
    owner_xid: str
    noun: str
    name: str


@dataclass
class Membership:
    """What this process does as a worker, in a thread of its own.

    Attributes:
        database: Where the runs are.
        leases: Those of the workers, ours among them.
        seconds: For how long a lease lasts.
        definitions: Returns what this worker has.
        lost: Is called, once, when another process has our executor id.
    """

    database: Database
    leases: Leases
    seconds: float
    definitions: Callable[[], Definitions]
    lost: Callable[[str], None]
    _over: threading.Event = field(default_factory=threading.Event)
    _lacking: set[Lacking] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _said: set[str] = field(default_factory=set)
    _beaten: float = 0.0
    _judges_from: float = 0.0
    _thread: threading.Thread | None = None

    def begin(self) -> Lease | None:
        """Take our lease and keep it.

        Returns:
            The lease of a live process that has our executor id; then nothing has begun.
        """
        if (taken := self._taken()) is not None:
            return taken
        self._beaten = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="crewai-dbos-worker", daemon=True)
        self._thread.start()
        return None

    def end(self) -> None:
        """Give our lease up. What is left of our runs goes to others at once."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self.leases.release()
        except SQLAlchemyError as error:
            logger.warning(
                "Worker %s could not give its lease up (%s): others go on with its runs in %g s.",
                self.leases.holder.executor_id,
                type(error).__name__,
                self.seconds,
            )
        self.leases.close()

    def ended_by(self, run_id: str, owner_xid: str | None) -> BaseException | None:
        """What ends an execution of a run, if a peer may have taken this worker for dead."""
        if time.monotonic() - self._beaten < self.seconds:
            return None
        owner = self.database.patiently(lambda: self.database.system.get_workflow_owner(run_id))
        return None if owner == owner_xid else dbos_errors.DBOSWorkflowConflictIDError(run_id)

    def leave(self, lacking: Lacking) -> str | None:
        """Leave a run to a worker that has its definition, now or when there is one.

        Returns:
            Which worker has it; None if none does.
        """
        with self._lock:
            self._lacking.add(lacking)
        return self._hand_back(self.leases.of_peers()).get(lacking)

    def _taken(self) -> Lease | None:
        """The lease of a live process with our id; one that was killed does not beat any more."""
        definitions, before = self.definitions(), None
        while True:
            taken = self.leases.take(definitions)
            if taken is None or (before is not None and taken.beat_ms != before):
                return taken
            before = taken.beat_ms
            logger.info(
                "Executor id %s is that of %s, which may have been killed: its lease runs out in "
                "%g s at most.",
                taken.holder.executor_id,
                taken.holder.process,
                self.seconds,
            )
            self._over.wait(self.seconds / LOOKS * 2)

    def _work(self) -> None:
        while not self._over.wait(self.seconds / LOOKS):
            try:
                before = time.monotonic()
                if not self.leases.beat(self.definitions()):
                    self.lost(self.leases.holder.executor_id)
                    return
                if before - self._beaten > self.seconds / 2:
                    # The database was away, for the others as well: they get time to come back.
                    self._judges_from = before + self.seconds
                self._beaten = before
                peers = self.leases.of_peers()
                if before >= self._judges_from:
                    for lease in peers:
                        if lease.is_stale:
                            self._take_over_from(lease)
                self._hand_back(peers)
            except SQLAlchemyError as error:
                logger.warning(
                    "Worker %s can't beat its lease (%s); tried again.",
                    self.leases.holder.executor_id,
                    type(error).__name__,
                )
            except Exception:
                logger.exception("Worker %s: tried again.", self.leases.holder.executor_id)

    def _take_over_from(self, lease: Lease) -> None:
        found = recovering.recover_from(lease.holder.executor_id)
        if found:
            logger.warning(
                "Worker %s (%s) is gone: %d of its runs go on: %s",
                lease.holder.executor_id,
                lease.holder.process,
                len(found),
                ", ".join(found[:5]) + (", ..." if len(found) > 5 else ""),
            )
        self.leases.clear(lease)

    def _hand_back(self, peers: list[Lease]) -> dict[Lacking, str]:
        """Give the runs back whose definitions a live peer has.

        Returns:
            Which peer has it, by the run.
        """
        alive, given = [lease for lease in peers if not lease.is_stale], {}
        with self._lock:
            every = list(self._lacking)
        for lacking in every:
            by = [each for each in alive if each.has(lacking.noun, lacking.name)]
            if not by:
                continue
            with self.database.writing() as connection:
                recovering.hand_back(
                    self.database, connection, lacking.run_id, lacking.owner_xid, PAUSE
                )
            with self._lock:
                self._lacking.discard(lacking)
            given[lacking] = by[0].holder.executor_id
            if lacking.name not in self._said:
                self._said.add(lacking.name)
                logger.warning(
                    "This worker has no %s %r. Its runs are left to %s, which has.",
                    lacking.noun,
                    lacking.name,
                    given[lacking],
                )
        return given


_member: Membership | None = None


def join(member: Membership | None) -> None:
    """This process is a worker from now on, or is none any more."""
    global _member
    _member = member


def member() -> Membership | None:
    """This process as a worker; None if it is none."""
    return _member
