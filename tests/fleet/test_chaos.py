"""Runs of every kind on workers to which everything happens, at any time.

The faults are those of a seed, which is printed. `make chaos` is the long one. CHAOS_SEED=7 gives
it the faults of an earlier one, CHAOS_FAULTS says how many, CHAOS_KINDS of which kinds
("killed,paused"), CHAOS_LEASE with which lease.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from crewai_dbos.control import Approve, Control
from crewai_dbos.testing import EffectLog, ModelServer
from crewai_dbos.testing.crash._fork_server import fork_server
from crewai_dbos.testing.crash._jobs import Job
from crewai_dbos.testing.crash._processes import Process
from crewai_dbos.testing.effects import EFFECTS
from fleet.chaos import jobs
from fleet.chaos.calls import MARK, Model
from fleet.chaos.faults import KINDS, Site, Strike, plan
from fleet.chaos.ledger import Ledger, histogram, summary
from fleet.chaos.network import network
from support.postgres import Postgres

pytestmark = pytest.mark.crash

CLOCKS = (0, 150, -150)
"""Of the workers, in seconds: two are five minutes apart."""

PATIENCE = 180
"""Seconds in which all runs end, after the last fault."""


class Lab:
    """Workers, one program that starts runs, and somebody who approves of what they ask."""

    def __init__(self, postgres: Postgres, folder: Path, lease: float) -> None:
        self.effects = EffectLog(folder / "effects")
        self.url = postgres.create_database()
        self._postgres = postgres
        self._folder = folder
        self._lease = lease
        self._processes: list[Process] = []
        self._environment: dict[str, str] = {}

    def suffer(self, strikes: list[Strike], pause: float) -> list[str]:
        """Carry runs out while this happens; returns what failed of the batches."""
        port = urlsplit(self.url).port
        assert port is not None
        with ModelServer(Model(self.effects)) as model, network(port) as between:
            self._environment = {EFFECTS: str(self.effects.path), **model.env}
            self._urls = [self.url] * len(CLOCKS)
            self._urls[0] = self.url.replace(f":{port}/", f":{between.port}/")
            site = Site(self._postgres, self.url, between, self._lease, self._worker, self.effects)
            site.workers += [self._worker(place) for place in range(len(CLOCKS))]
            enough = self._folder / "enough"
            starter = self._process("begin", pause=pause, enough=str(enough), database_url=self.url)
            starter.hear("begun")
            with self._clerk():
                site.suffer(strikes)
                enough.touch()
                failed = starter.wait(PATIENCE).result
                assert failed is not None, f"a batch has not ended\n{self.told()}"
                self._ended()
        return list(failed)

    def recorded(self) -> set[str]:
        """The marks of the attempts that are in the database."""
        query = "SELECT output FROM dbos.operation_outputs WHERE output IS NOT NULL"
        with psycopg.connect(self.url) as connection:
            return {mark for (text,) in connection.execute(query) for mark in MARK.findall(text)}

    def statuses(self) -> dict[str, str]:
        query = "SELECT workflow_uuid, status FROM dbos.workflow_status"
        with psycopg.connect(self.url) as connection:
            return dict(connection.execute(query).fetchall())

    def told(self) -> str:
        """What the processes have said, the last of it."""
        return "\n".join(f"--- {p.pid}\n{p.output()[-3000:]}" for p in self._processes)

    def end(self) -> None:
        for process in self._processes:
            process.end()

    def _worker(self, place: int) -> Process:
        order = {"clock": CLOCKS[place], "lease": self._lease, "grace": 2}
        process = self._process("work", database_url=self._urls[place], **order)
        end = time.monotonic() + PATIENCE
        while "carries out" not in process.output():
            assert time.monotonic() < end, process.output()
            time.sleep(0.1)
        return process

    def _process(self, function: str, **order: object) -> Process:
        log = self._folder / f"{len(self._processes)}.log"
        job = Job(f"{jobs.__name__}:{function}", order, log, self._environment)
        process = fork_server(jobs.__name__).start(job)
        self._processes.append(process)
        return process

    @contextlib.contextmanager
    def _clerk(self) -> Iterator[None]:
        """In the block somebody approves of whatever is asked, when the database is there."""
        over = threading.Event()

        def answer() -> None:
            while not over.wait(0.5):
                with contextlib.suppress(Exception), Control(self.url) as control:
                    for request in control.requests():
                        control.answer(request.request_id, Approve(), by="ann")

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _ended(self) -> None:
        end = time.monotonic() + PATIENCE
        while left := {run for run, status in self.statuses().items() if status != "SUCCESS"}:
            if time.monotonic() > end:
                pytest.fail(f"{left} have not ended well\n{self.told()}")
            time.sleep(0.5)


def disturbed(postgres: Postgres, folder: Path, lease: float, faults: int, pause: float) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))
    kinds = os.environ.get("CHAOS_KINDS", ",".join(KINDS)).split(",")
    strikes = plan(seed, faults, len(CLOCKS), kinds)
    print(f"\nCHAOS_SEED={seed}, {faults} faults, lease {lease:g} s")
    lab = Lab(postgres, folder, lease)
    begun = time.monotonic()
    try:
        failed = lab.suffer(strikes, pause)
        recorded, runs = lab.recorded(), len(lab.statuses())
    finally:
        lab.end()
    ledger = Ledger.read(lab.effects)
    print(f"{runs} runs in {time.monotonic() - begun:.0f} s, load {os.getloadavg()[0]:.0f}")
    print(*(f"{what}: {count}" for what, count in summary(ledger, recorded).items()), sep="\n")
    print(f"time to takeover:\n{histogram(ledger.takeovers())}")
    assert failed == []
    assert ledger.unrecorded(recorded) == []
    assert ledger.made_again(recorded) == []
    assert ledger.unexplained(recorded) == []
    assert ledger.wrongly_dead(lease) == []


@pytest.mark.every_moment
def test_a_fault_of_each_kind(postgres: Postgres, tmp_path: Path) -> None:
    disturbed(postgres, tmp_path, lease=2, faults=len(KINDS), pause=12)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_many_faults(postgres: Postgres, tmp_path: Path) -> None:
    faults = int(os.environ.get("CHAOS_FAULTS") or 42)
    lease = float(os.environ.get("CHAOS_LEASE") or 6)
    disturbed(postgres, tmp_path, lease, faults, pause=5)
