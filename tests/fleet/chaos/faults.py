"""The faults: what is done to a worker, the network or the database, and how it is undone."""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import psutil
import psycopg

from crewai_dbos.testing import EffectLog
from crewai_dbos.testing.crash._processes import Process
from fleet.chaos.ledger import Fault
from fleet.chaos.network import Network
from support.postgres import Postgres

KINDS = ("killed", "paused", "stopped", "outage", "frozen", "stalled", "cut")


@dataclass(frozen=True)
class Strike:
    """One fault of a plan.

    Attributes:
        after: Seconds after the one before.
        kind: Which.
        place: Of which worker; another one if that has a fault.
        leases: How long it lasts, if it lasts.
    """

    after: float
    kind: str
    place: int
    leases: float


def plan(seed: int, count: int, workers: int, kinds: Sequence[str] = KINDS) -> list[Strike]:
    """So many faults, each kind as often as any other, at times that the seed says."""
    chance = random.Random(seed)
    each: list[str] = []
    while len(each) < count:
        each += chance.sample(kinds, len(kinds))
    return [
        Strike(chance.uniform(0.3, 3), kind, chance.randrange(workers), chance.uniform(1.2, 2))
        for kind in each[:count]
    ]


Undo = Callable[[], None]


@dataclass
class Site:
    """Where it happens.

    Attributes:
        postgres: The server.
        url: Of the database.
        network: Between the worker in place 0 and the server.
        lease: Of the workers.
        start: Starts a worker in a place.
        effects: Is told of every fault when it is over.
    """

    postgres: Postgres
    url: str
    network: Network
    lease: float
    start: Callable[[int], Process]
    effects: EffectLog
    workers: list[Process] = field(default_factory=list)
    _busy: set[int] = field(default_factory=set)
    _pending: list[tuple[float, int, Undo]] = field(default_factory=list)
    _count: int = 0

    def suffer(self, strikes: list[Strike]) -> None:
        """Have all of these happen."""
        for strike in strikes:
            self._wait(time.monotonic() + strike.after)
            if strike.kind == "outage":
                self._heal()  # a frozen process of the server would keep it from ending
            while (place := self._free(strike)) is None:
                self._wait(self._pending[0][0])
            getattr(self, f"_{strike.kind}")(place, strike.leases * self.lease)
        self._heal()

    def _free(self, strike: Strike) -> int | None:
        """A worker without a fault."""
        if strike.kind in ("stalled", "cut"):
            return None if 0 in self._busy else 0
        places = [(strike.place + n) % len(self.workers) for n in range(len(self.workers))]
        return next((place for place in places if place not in self._busy), None)

    def _killed(self, place: int, _: float) -> None:
        with self._of(place, "killed"):
            self.workers[place].kill()
            self.workers[place].wait()
        self.workers[place] = self.start(place)

    def _stopped(self, place: int, _: float) -> None:
        process = self.workers[place]
        with self._of(place, "stopped"):
            os.kill(process.pid, signal.SIGTERM)
            end = process.wait()
        assert end.code == 0, f"{end}: {process.output()[-3000:]}"
        self.workers[place] = self.start(place)

    def _paused(self, place: int, seconds: float) -> None:
        pid = self.workers[place].pid
        os.kill(pid, signal.SIGSTOP)
        self._later("paused", [place], seconds, lambda: os.kill(pid, signal.SIGCONT))

    def _outage(self, _: int, seconds: float) -> None:
        self.postgres.stop()
        self._later("outage", list(range(len(self.workers))), seconds, self.postgres.start)

    def _frozen(self, place: int, seconds: float) -> None:
        """One connection of a worker says nothing any more, and is not closed."""
        if not (backends := self._backends(self.workers[place].pid)):
            return
        backend = random.choice(backends)
        os.kill(backend, signal.SIGSTOP)

        def thaw() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(backend, signal.SIGCONT)

        self._later("frozen", [place], seconds, thaw)

    def _stalled(self, place: int, seconds: float) -> None:
        self.network.stall()
        self._later("stalled", [place], seconds, self.network.mend)

    def _cut(self, place: int, seconds: float) -> None:
        self.network.cut()
        self._later("cut", [place], seconds, self.network.mend)

    def _backends(self, pid: int) -> list[int]:
        """The processes of the server that this process speaks to."""
        ports = [each.laddr.port for each in psutil.Process(pid).net_connections("tcp4")]
        with psycopg.connect(self.url, autocommit=True) as connection:
            query = "SELECT pid FROM pg_stat_activity WHERE client_port = ANY(%s) ORDER BY pid"
            return [pid for (pid,) in connection.execute(query, [ports]).fetchall()]

    @contextlib.contextmanager
    def _of(self, place: int, kind: str) -> Iterator[None]:
        """A fault that is over at the end of the block."""
        pid, begun = self.workers[place].pid, time.monotonic()
        yield
        self._tell(kind, (pid,), begun)

    def _later(self, kind: str, places: list[int], seconds: float, undo: Undo) -> None:
        """A fault has begun, which is over after so many seconds."""
        begun, pids = time.monotonic(), tuple(self.workers[place].pid for place in places)

        def over() -> None:
            undo()
            self._tell(kind, pids, begun)
            for place in places:
                self._busy.discard(place)

        self._busy.update(places)
        self._count += 1
        heapq.heappush(self._pending, (begun + seconds, self._count, over))

    def _tell(self, kind: str, pids: tuple[int, ...], begun: float) -> None:
        self.effects.report("fault", **vars(Fault(kind, pids, begun, time.monotonic())))

    def _wait(self, until: float) -> None:
        """Wait, and undo what is to be over meanwhile."""
        while self._pending and self._pending[0][0] <= until:
            at, _, over = heapq.heappop(self._pending)
            time.sleep(max(0.0, at - time.monotonic()))
            over()
        time.sleep(max(0.0, until - time.monotonic()))

    def _heal(self) -> None:
        """Undo all that there is, each in its time."""
        while self._pending:
            self._wait(self._pending[0][0])
