"""This process as a worker among others: it beats its lease, and goes on with dead peers' runs."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from crewai_dbos import _clock
from crewai_dbos._dbos_seam import at_work, recovering
from crewai_dbos._dbos_seam.database import Database
from crewai_dbos._dbos_seam.instance import is_launched
from crewai_dbos._fleet.bounded import within
from crewai_dbos._fleet.eligibility import Claims, Left
from crewai_dbos._fleet.leases import Definitions, Holder, Lease, Leases
from crewai_dbos._fleet.silence import Silence
from crewai_dbos._fleet.unattended import Unattended

logger = logging.getLogger("crewai_dbos")

BEATS = 12
"""How often a lease is beaten while it lasts; after each beat those of peers are looked at."""

_CLEARED_AFTER = 3600.0
"""Seconds between looks for old leases."""

LEASE_EXPIRED, HANDED_OVER = REASONS = ("lease_expired", "handed_over")
"""Why runs of a worker were taken over: it has died, or has given its lease up in good order."""

_SPARING = 20
"""A look at long queues is taken again after so many times as long."""


@dataclass
class Membership:
    """What this process does as a worker, in two threads: one beats, one looks after the others.

    Attributes:
        database: Where the runs are, on an engine of its own.
        leases: Those of the workers, ours among them.
        seconds: For how long a lease lasts.
        definitions: Returns what this worker has.
        claims: What it takes.
        lost: Is called, once, when another process has our executor id.
        beaten: Is called at each beat that was written, with when it was begun.
        taken_over: How many runs of workers that were gone this one has had go on, by why.
    """

    database: Database
    leases: Leases
    seconds: float
    definitions: Callable[[], Definitions]
    claims: Claims
    lost: Callable[[str], None]
    beaten: Callable[[float], None]
    taken_over: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(REASONS, 0)))
    _silence: Silence = field(default_factory=Silence)
    _unattended: Unattended = field(default_factory=Unattended)
    _alive: list[Lease] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _written: float = 0.0
    _beaten: threading.Event = field(default_factory=threading.Event)
    _soon: threading.Event = field(default_factory=threading.Event)
    _is_launched: bool = False
    _next_look_at_queues: float = 0.0
    _said: set[tuple[str, str, bool]] = field(default_factory=set)
    _threads: list[threading.Thread] = field(default_factory=list)
    _beating: threading.Thread | None = None
    _turned: float = field(default_factory=_clock.seconds)

    def begin(self) -> Lease | None:
        """Take our lease and keep it. After that DBOS may be launched.

        Returns:
            The lease of a live process that has our executor id; then nothing has begun.
        """
        self.leases.prepare()
        since, taken = self._taken()
        if taken is not None:
            return taken
        self._written = since
        self._turned = since
        self._beating = self._start(self._beat)
        with self._trying("look after its peers"):
            self._look()
        return None

    def attend(self) -> None:
        """From now on, as DBOS is launched, look after the runs of others."""
        self._is_launched = True
        self._start(self._attend)

    def end(self) -> list[str]:
        """Give our lease up. What is left of our runs goes to others at once.

        Returns:
            The ids of those runs, as far as they are known.
        """
        self._over.set()
        self._beaten.set()
        self._soon.set()
        for thread in self._threads:
            thread.join(min(self.seconds / 2, 5.0))
        left: list[str] = []
        if self._is_launched:
            with contextlib.suppress(SQLAlchemyError, TimeoutError):
                left = within(min(self.seconds / 2, 2.0), self.leases.unended)
        failed = ""
        try:
            self.give_up(min(self.seconds, 5.0))
        except (SQLAlchemyError, TimeoutError) as error:
            failed = type(error).__name__
        if failed:
            logger.warning(
                "Worker %s could not give its lease up (%s): others go on with its runs when it "
                "has run out.",
                self.leases.holder.executor_id,
                failed,
            )
        with contextlib.suppress(Exception):
            self.leases.close()
        return left

    def unbeaten_for(self) -> float:
        """Seconds since the last beat that the database has taken."""
        return _clock.seconds() - self._written

    def beat_soon(self) -> None:
        """Beat within a second, to see whether the database answers."""
        self._soon.set()

    def is_stuck(self) -> bool:
        """Whether the thread that beats stands still; no database can hold it up for so long."""
        if self._over.is_set() or self._beating is None:
            return False
        return not self._beating.is_alive() or _clock.seconds() - self._turned > 2 * self.seconds

    def give_up(self, seconds: float) -> None:
        """Give our lease up, and do nothing else.

        Raises:
            TimeoutError: That has taken longer than so many seconds.
        """
        within(seconds, self.leases.release)

    def _start(self, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, name="crewai-dbos-worker", daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _taken(self) -> tuple[float, Lease | None]:
        """Since when ours is taken; or the lease of a live process with our id.

        One that was killed does not beat any more: ours takes its place when it has run out.
        """
        definitions, silence = self.definitions(), Silence()
        first: Lease | None = None
        over: Lease | None = None
        while True:
            begun = _clock.seconds()
            taken = self.leases.take(definitions, over)
            if taken is None:
                return begun, None
            if first is None:
                first = taken
                logger.warning(
                    "Executor id %s is that of %s, which may have been killed: its lease runs out "
                    "in %g s.",
                    taken.holder.executor_id,
                    taken.holder.process,
                    taken.seconds,
                )
            elif (taken.holder, taken.beat_ms) != (first.holder, first.beat_ms):
                return begun, taken
            if silence.after([taken], begun, _clock.seconds()):
                over = taken
            else:
                self._over.wait(taken.seconds / BEATS)

    def _beat(self) -> None:
        while not self._is_over_before_the_next():
            self._turned = since = _clock.seconds()
            with self._trying("beat its lease"):
                if self._is_launched and not is_launched():
                    # DBOS was destroyed, and carries out nothing here any more.
                    self.give_up(self.seconds / 2)
                    return
                if not within(self.seconds / 2, lambda: self.leases.beat(self.definitions())):
                    self.lost(self.leases.holder.executor_id)
                    return
                self._written = since
                self._beaten.set()
                self.beaten(since)

    def _is_over_before_the_next(self) -> bool:
        """Wait until the next beat is due. Returns whether there is to be none."""
        pause = self._pause()
        least = min(pause, 1.0)
        if not self._over.wait(least):
            self._soon.wait(pause - least)
            self._soon.clear()
        return self._over.is_set()

    def _attend(self) -> None:
        with self._trying("count the runs without a lease"):
            self._say_what_nobody_takes_over()
        cleared = -math.inf
        while not self._over.is_set():
            if not self._beaten.wait(1.0):
                continue  # while nothing of ours is written, nobody is judged
            self._beaten.clear()
            if self._over.is_set() or not is_launched():
                return
            with self._trying("look after its peers"):
                for lease in self._with_runs(self._look()):
                    with self._trying(f"take over from {lease.holder.executor_id}"):
                        within(self.seconds, partial(self._take_over_from, lease))
                self._say_what_is_left()
            with self._trying("look after its own runs"):
                self._put_back_what_is_unattended()
            if _clock.seconds() - cleared > _CLEARED_AFTER:
                cleared = _clock.seconds()
                with self._trying("clear old leases"):
                    within(self.seconds / 2, self.leases.clear)

    def _with_runs(self, gone: list[Lease]) -> list[Lease]:
        """Those of leases that have run out under which runs are."""
        if not gone:
            return []
        found = within(
            self.seconds / 2, lambda: self.leases.with_runs(lease.holder for lease in gone)
        )
        return [lease for lease in gone if lease.holder.executor_id in found]

    @contextlib.contextmanager
    def _trying(self, what: str) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, TimeoutError) as error:
            if not self._over.is_set():
                logger.warning(
                    "Worker %s can't %s (%s); tried again.",
                    self.leases.holder.executor_id,
                    what,
                    type(error).__name__,
                )
        except Exception:
            # What asks DBOS for something fails where that is destroyed in this very moment.
            is_destroyed = self._is_launched and not is_launched()
            if not (is_destroyed or self._over.is_set()):
                logger.exception("Worker %s: tried again.", self.leases.holder.executor_id)

    def _pause(self) -> float:
        """Seconds until the next beat and look at the others: enough for the shortest lease."""
        return min([self.seconds, *(lease.seconds for lease in self._alive)]) / BEATS

    def _look(self) -> list[Lease]:
        """Look who lives; returns the leases that have run out."""
        written = self._written
        peers = within(self.seconds / 2, self.leases.of_peers)
        gone: set[Holder] = self._silence.after(peers, written, _clock.seconds())
        self._alive = [lease for lease in peers if lease.holder not in gone]
        return [lease for lease in peers if lease.holder in gone]

    def _take_over_from(self, lease: Lease) -> None:
        """Have its runs go on, and say so, also if nobody waits for that any more."""
        found = self.leases.take_over(lease)
        if found:
            logger.warning(
                "Worker %s (%s) is gone: %d of its runs %s on: %s",
                lease.holder.executor_id,
                lease.holder.process,
                len(found),
                "goes" if len(found) == 1 else "go",
                listed(found),
            )
            self.taken_over[HANDED_OVER if lease.is_released else LEASE_EXPIRED] += len(found)

    def _put_back_what_is_unattended(self) -> None:
        claimed = within(self.seconds / 2, self.leases.claimed)
        if at_work.is_full():  # what was claimed waits for a thread
            claimed = []
        due = self._unattended.due(claimed, at_work.run_ids(), _clock.seconds(), self.seconds)
        for run_id, owner_xid in due:
            put_back = partial(recovering.go_on, run_id, owner_xid, {}, counts=True)
            if within(self.seconds, put_back):
                logger.warning(
                    "Run %s was taken from a queue, and nothing here carries it out: it is put "
                    "back. The database may have been away at that moment.",
                    run_id,
                )

    def _say_what_nobody_takes_over(self) -> None:
        for executor_id, count in within(self.seconds / 2, self.leases.without_lease).items():
            logger.warning(
                "%d %s of this application and version under %r, which holds no lease: it is no "
                "Worker, and may live. If it does not, nobody goes on with that: start it once "
                "more under that id (DBOS__VMID) with DBOS.launch(), or DBOS.resume_workflow() "
                "each.",
                count,
                "run is" if count == 1 else "runs are",
                executor_id,
            )

    def _say_what_is_left(self) -> None:
        """Say, once of each, what waits on queues that this worker lacks the code of."""
        if (begun := _clock.seconds()) < self._next_look_at_queues:
            return
        self._next_look_at_queues = begun + _SPARING * self.seconds / 2  # if it does not end
        found = within(self.seconds / 2, self._left)
        self._next_look_at_queues = _clock.seconds() + _SPARING * (_clock.seconds() - begun)
        for left in found:
            by = next((each for each in self._alive if each.has(left.noun, left.name)), None)
            said = (left.noun, left.name, by is None)
            if said in self._said:
                continue
            self._said.add(said)
            if by is not None:
                told = f"Its runs are left to {by.holder.executor_id}, which has."
            elif left.noun == "workflow":
                told = f"Its runs wait for a worker that has: {left.count}."
            else:
                told = f"No worker that lives has it, and its runs wait for one: {left.count}."
            logger.warning("This worker has no %s %r. %s", left.noun, left.name, told)

    def _left(self) -> list[Left]:
        return self.claims.left(self.database, self.leases.holder)


def listed(run_ids: list[str]) -> str:
    """The first of them, for the log."""
    return ", ".join(run_ids[:5]) + (", ..." if len(run_ids) > 5 else "")


_member: Membership | None = None


def join(member: Membership | None) -> None:
    """This process is a worker from now on, or is none any more."""
    global _member
    _member = member


def member() -> Membership | None:
    """This process as a worker; None if it is none."""
    return _member
