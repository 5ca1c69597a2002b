"""Workers that are killed, paused and stopped at any time, while others go on."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from crewai_dbos.testing.crash._processes import Process
from fleet.conftest import Fleet

pytestmark = pytest.mark.crash

WORKERS = 3
LEASE = 2


def killed(fleet: Fleet, worker: Process) -> Process:
    worker.kill()
    worker.wait()
    return fleet.worker(lease=LEASE)


def paused(fleet: Fleet, worker: Process) -> Process:
    """For longer than its lease, so that others take its runs while it lives."""
    os.kill(worker.pid, signal.SIGSTOP)
    time.sleep(LEASE * 1.7)
    os.kill(worker.pid, signal.SIGCONT)
    return worker


def stopped(fleet: Fleet, worker: Process) -> Process:
    os.kill(worker.pid, signal.SIGTERM)
    end = worker.wait()
    assert (end.code, end.result) == (0, "stopped"), worker.output()
    return fleet.worker(lease=LEASE)


FAULTS: list[Callable[[Fleet, Process], Process]] = [killed, paused, stopped]


def disturbed(fleet: Fleet, runs: int, faults: int) -> None:
    """Every run ends, and what is recorded is not done again."""
    chance = random.Random(runs)
    ids = [f"run-{number}" for number in range(runs)]
    first = fleet.worker(lease=LEASE, flow="restless", ids=ids, queue="jobs")
    workers = [first, *(fleet.worker(lease=LEASE) for _ in range(WORKERS - 1))]
    for number in range(faults):
        time.sleep(chance.random())  # it comes at any time
        victim = chance.randrange(WORKERS)
        workers[victim] = FAULTS[number % len(FAULTS)](fleet, workers[victim])
    assert fleet.results(ids) == ["0"] * runs
    _check_effects(fleet)


def _check_effects(fleet: Fleet) -> None:
    """A step begins after the record of the one before it: that one must not begin any more.

    A step that a worker begins beside the new owner of its run looks as one that was in flight when
    it was paused: `test_faults` has that.
    """
    reached: dict[tuple[str, str], int] = {}
    for effect in fleet.effects.read():
        if effect.kind == "begun":
            branch = (effect.fields["run"], effect.fields["branch"])
            assert effect.fields["step"] >= reached.get(branch, 0), f"{branch} went back"
            reached[branch] = effect.fields["step"]


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_one_fault_of_each_kind(fleet: Fleet) -> None:
    disturbed(fleet, runs=12, faults=3)


@pytest.mark.every_moment
def test_many_faults(fleet: Fleet) -> None:
    disturbed(fleet, runs=120, faults=30)
