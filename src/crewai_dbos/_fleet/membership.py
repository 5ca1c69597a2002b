"""This process as a worker among others: it beats its lease, and goes on with dead peers' runs."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from crewai_dbos._dbos_seam import recovering
from crewai_dbos._dbos_seam.database import Database
from crewai_dbos._fleet.bounded import clock, within
from crewai_dbos._fleet.gate import Gate
from crewai_dbos._fleet.leases import Definitions, Holder, Lease, Leases
from crewai_dbos._fleet.silence import Silence

logger = logging.getLogger("crewai_dbos")

BEATS, LOOKS = 6, 20
"""How often a lease is beaten, and how often those of peers are looked at, while it lasts.

The looks say how much later than a lease a death is found.
"""

_SHORTEST_PAUSE = 0.25
"""Seconds between two looks, unless a lease is so short that it has to be less."""

PAUSE, GROWTH, LONGEST_PAUSE = 2.0, 1.3, 30.0
"""Seconds for which nobody takes a run that a worker without its definition has given back.

More each time: whoever has it may be full. Not many more, as who takes it next is chance.
"""

_REMEMBERED = 1000
"""So many runs a worker knows to have given back."""


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
    """What this process does as a worker, in two threads: one beats, one looks after the others.

    Attributes:
        database: Where the runs are, on an engine of its own.
        leases: Those of the workers, ours among them.
        seconds: For how long a lease lasts.
        definitions: Returns what this worker has.
        lost: Is called, once, when another process has our executor id.
        taken_over: How many runs of workers that were gone this one has had go on.
    """

    database: Database
    leases: Leases
    seconds: float
    definitions: Callable[[], Definitions]
    lost: Callable[[str], None]
    gate: Gate = field(init=False)
    taken_over: int = 0
    _silence: Silence = field(default_factory=Silence)
    _alive: list[Lease] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _lacking: set[Lacking] = field(default_factory=set)
    _given: OrderedDict[str, int] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _said: set[str] = field(default_factory=set)
    _threads: list[threading.Thread] = field(default_factory=list)
    _turned: float = field(default_factory=clock)

    def begin(self) -> Lease | None:
        """Take our lease and keep it. After that DBOS may be launched.

        Returns:
            The lease of a live process that has our executor id; then nothing has begun.
        """
        self.leases.prepare()
        since, taken = self._taken()
        if taken is not None:
            return taken
        self.gate = Gate(self.seconds, recovering.runs_at_work, recovering.owner_of)
        self.gate.beaten(since)
        self._start(self._beat)
        with self._trying("look after its peers"):
            self._look()
        return None

    def attend(self) -> None:
        """From now on, as DBOS is launched, look after the runs of others."""
        self._start(self._attend)

    def end(self) -> None:
        """Give our lease up. What is left of our runs goes to others at once."""
        self._over.set()
        for thread in self._threads:
            thread.join(min(self.seconds / 2, 5.0))
        try:
            self.give_up(min(self.seconds, 5.0))
        except (SQLAlchemyError, TimeoutError) as error:
            logger.warning(
                "Worker %s could not give its lease up (%s): others go on with its runs when it "
                "has run out.",
                self.leases.holder.executor_id,
                type(error).__name__,
            )
        with contextlib.suppress(Exception):
            self.leases.close()

    def unbeaten_for(self) -> float:
        """Seconds since the last beat that the database has taken."""
        return self.gate.unbeaten_for()

    def is_stuck(self) -> bool:
        """Whether the thread that beats stands still; no database can hold it up for so long."""
        if self._over.is_set() or not self._threads:
            return False
        return not self._threads[0].is_alive() or clock() - self._turned > 2 * self.seconds

    def give_up(self, seconds: float) -> None:
        """Give our lease up, and do nothing else.

        Raises:
            TimeoutError: That has taken longer than so many seconds.
        """
        within(seconds, self.leases.release)

    def leave(self, lacking: Lacking) -> str | None:
        """Leave a run to a worker that has its definition, now or when there is one.

        Returns:
            Which worker has it; None if none does, or it can't be left to it yet.
        """
        with self._lock:
            self._lacking.add(lacking)
        try:
            return within(self.seconds, lambda: self._hand_back(lacking))
        except Exception as error:  # it must not end the run
            logger.warning("Run %s can't be given back yet (%s).", lacking.run_id, error)
            return None

    def forget(self, lacking: Lacking) -> None:
        """This worker has the definition of a run by now."""
        with self._lock:
            self._lacking.discard(lacking)

    def _start(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name="crewai-dbos-worker", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _taken(self) -> tuple[float, Lease | None]:
        """Since when ours is taken; or the lease of a live process with our id.

        One that was killed does not beat any more: ours takes its place when it has run out.
        """
        definitions, silence = self.definitions(), Silence()
        first: Lease | None = None
        over: Lease | None = None
        while True:
            begun = clock()
            taken = self.leases.take(definitions, over)
            if taken is None:
                return begun, None
            if first is None:
                first = taken
                logger.info(
                    "Executor id %s is that of %s, which may have been killed: its lease runs out "
                    "in %g s.",
                    taken.holder.executor_id,
                    taken.holder.process,
                    taken.seconds,
                )
            elif (taken.holder, taken.beat_ms) != (first.holder, first.beat_ms):
                return begun, taken
            if silence.after([taken], begun, clock()):
                over = taken
            else:
                self._over.wait(taken.seconds / BEATS)

    def _beat(self) -> None:
        while not self._over.wait(self.seconds / BEATS):
            self._turned = since = clock()
            with self._trying("beat its lease"):
                if not within(self.seconds / 2, lambda: self.leases.beat(self.definitions())):
                    self.lost(self.leases.holder.executor_id)
                    return
                self.gate.beaten(since)

    def _attend(self) -> None:
        while not self._over.wait(self._pause()):
            with self._trying("look after its peers"):
                stale = self._look()
                with_runs = self.leases.with_runs(each.holder for each in stale) if stale else set()
                for lease in stale:
                    if lease.holder.executor_id in with_runs:
                        self._take_over_from(lease)
                    if lease.is_old:
                        self.leases.clear(lease)
                self._hand_back_every()

    @contextlib.contextmanager
    def _trying(self, what: str) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, TimeoutError) as error:
            logger.warning(
                "Worker %s can't %s (%s); tried again.",
                self.leases.holder.executor_id,
                what,
                type(error).__name__,
            )
        except Exception:
            logger.exception("Worker %s: tried again.", self.leases.holder.executor_id)

    def _pause(self) -> float:
        """Seconds until the next look at the others: often enough for the shortest lease.

        One that may run out before that is looked at when it does.
        """
        shortest = min([self.seconds, *(lease.seconds for lease in self._alive)])
        usual = max(shortest / LOOKS, min(_SHORTEST_PAUSE, shortest / BEATS))
        return min(usual, self._silence.due() + 0.01)

    def _look(self) -> list[Lease]:
        """Look who lives; returns the leases that have run out."""
        begun = clock()
        peers = within(self.seconds / 2, self.leases.of_peers)
        gone: set[Holder] = self._silence.after(peers, begun, clock())
        self._alive = [lease for lease in peers if lease.holder not in gone]
        return [lease for lease in peers if lease.holder in gone]

    def _take_over_from(self, lease: Lease) -> None:
        found = []
        for run in recovering.runs_of(lease.holder.executor_id):
            with self.leases.unbeaten(lease) as is_gone:
                if not is_gone:
                    break
                recovering.recover(run, lease.holder.executor_id)
                found.append(run.workflow_id)
        if found:
            logger.warning(
                "Worker %s (%s) is gone: %d of its runs go on: %s",
                lease.holder.executor_id,
                lease.holder.process,
                len(found),
                ", ".join(found[:5]) + (", ..." if len(found) > 5 else ""),
            )
            self.taken_over += len(found)

    def _hand_back_every(self) -> None:
        """Give the runs back whose definitions a live peer has, and forget those that are gone."""
        with self._lock:
            every = list(self._lacking)
        if not every:
            return
        with self.database.engine.connect() as connection:
            rows = self.database.rows(connection, (lacking.run_id for lacking in every))
        for lacking in every:
            row = rows.get(lacking.run_id)
            if row is None or row.owner_xid != lacking.owner_xid:
                with self._lock:
                    self._lacking.discard(lacking)
            else:
                within(self.seconds, partial(self._hand_back, lacking))

    def _hand_back(self, lacking: Lacking) -> str | None:
        """Give a run back whose definition a live peer has; returns which."""
        by = [each for each in self._alive if each.has(lacking.noun, lacking.name)]
        if not by:
            return None
        with self.database.writing() as connection:
            recovering.hand_back(
                self.database,
                connection,
                lacking.run_id,
                lacking.owner_xid,
                self._pause_of(lacking.run_id),
            )
        with self._lock:
            self._lacking.discard(lacking)
        peer = by[0].holder.executor_id
        if lacking.name not in self._said:
            self._said.add(lacking.name)
            logger.warning(
                "This worker has no %s %r. Its runs are left to %s, which has.",
                lacking.noun,
                lacking.name,
                peer,
            )
        return peer

    def _pause_of(self, run_id: str) -> float:
        """Longer each time that this worker gives the run back."""
        with self._lock:
            times = self._given[run_id] = self._given.pop(run_id, 0) + 1
            if len(self._given) > _REMEMBERED:
                self._given.popitem(last=False)
        return min(PAUSE * GROWTH ** min(times - 1, 99), LONGEST_PAUSE)


_member: Membership | None = None


def join(member: Membership | None) -> None:
    """This process is a worker from now on, or is none any more."""
    global _member
    _member = member


def member() -> Membership | None:
    """This process as a worker; None if it is none."""
    return _member
