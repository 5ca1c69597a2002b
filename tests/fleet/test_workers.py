"""Workers on one database, which are killed, paused and stopped."""

from __future__ import annotations

import os
import signal
import time

import pytest

from fleet import jobs
from fleet.conftest import RUNS, Fleet
from people.conftest import until
from support.databases import some_here, sqlite_here

pytestmark = pytest.mark.crash


def test_a_worker_that_is_killed(fleet: Fleet) -> None:
    """Its places in a queue are free again, too."""
    fleet.hold()
    first = fleet.worker(ids=RUNS, queue=jobs.QUEUE, at_once=2)
    fleet.at_second_step(first)
    second, gone = fleet.worker(at_once=2), first.hear("worker")
    first.kill()
    first.wait()
    fleet.at_second_step(second)
    fleet.go_on()
    assert len(fleet.results()) == 2
    for run_id in RUNS:
        assert fleet.steps("begun", run_id) == [1, 2, 2, 3], "what was at work is done again"
        assert fleet.steps("ended", run_id) == [1, 2, 3]
    assert f"Worker {gone} " in second.output()
    assert "2 of its runs go on" in second.output()


@pytest.mark.parametrize(
    "database_url", some_here(["sqlite", "postgres"], here=["postgres"]), indirect=True
)
def test_a_worker_that_stood_still_records_nothing(fleet: Fleet) -> None:
    fleet.hold()
    first = fleet.worker(ids=RUNS)
    fleet.at_second_step(first)
    fleet.pause(first)
    second = fleet.worker()
    fleet.at_second_step(second)
    fleet.go_on()
    assert len(fleet.results()) == 2
    os.kill(first.pid, signal.SIGCONT)
    until(lambda: all(len(fleet.steps("ended", run_id)) == 4 for run_id in RUNS))
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait().result == "stopped"
    assert fleet.begun(first, 3) == [], "it makes no other call of a run that it has lost"
    for run_id in RUNS:
        assert fleet.steps("begun", run_id) == [1, 2, 2, 3]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_worker_that_is_stopped_lets_its_runs_end(fleet: Fleet) -> None:
    fleet.hold()
    first = fleet.worker(ids=RUNS)
    fleet.at_second_step(first)
    os.kill(first.pid, signal.SIGTERM)
    until(lambda: "2 runs have 30 s to end" in first.output())
    fleet.go_on()
    end = first.wait()
    assert (end.code, end.result) == (0, "stopped")
    assert len(fleet.results()) == 2
    assert fleet.begun(first, 3)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_worker_that_waits_otherwise_than_in_run_is_stopped_alike(fleet: Fleet) -> None:
    fleet.hold()
    first = fleet.worker(job="wait_in_its_block", ids=RUNS)
    fleet.at_second_step(first)
    os.kill(first.pid, signal.SIGTERM)
    until(lambda: "2 runs have 30 s to end" in first.output())
    fleet.go_on()
    assert first.wait().result == 128 + signal.SIGTERM
    assert len(fleet.results()) == 2
    assert fleet.begun(first, 3)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_second_signal_ends_it_at_once_there_too(fleet: Fleet) -> None:
    fleet.hold()
    first = fleet.worker(job="wait_in_its_block", ids=RUNS, lease=300)
    second = fleet.worker()
    fleet.at_second_step(first)
    os.kill(first.pid, signal.SIGTERM)
    until(lambda: "2 runs have 30 s to end" in first.output())
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait().code == 128 + signal.SIGTERM
    fleet.at_second_step(second)
    fleet.go_on()
    assert len(fleet.results()) == 2


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_does_not_end_in_time_is_handed_over_at_once(fleet: Fleet) -> None:
    fleet.hold()
    first = fleet.worker(ids=RUNS, lease=300, grace=0)
    second = fleet.worker(lease=6)
    fleet.at_second_step(first)
    os.kill(first.pid, signal.SIGINT)
    assert first.wait().result == "stopped"
    fleet.at_second_step(second)
    fleet.go_on()
    assert len(fleet.results()) == 2


@sqlite_here("database_url")
def test_only_workers_that_have_the_definition_take_a_run(fleet: Fleet) -> None:
    """One that has it dies: nobody takes its runs, until there is another that has it."""
    fleet.hold()
    starter = fleet.worker(ids=RUNS, flow="late")
    fleet.at_second_step(starter)
    lacking = [fleet.worker(with_late=False, defines_late=True) for _ in range(2)]
    starter.kill()
    starter.wait()
    said = "This worker has no flow 'late'. No worker that lives has it, and its runs wait for one"
    until(lambda: all(said in each.output() for each in lacking))
    assert [fleet.status(run_id) for run_id in RUNS] == ["ENQUEUED"] * 2
    os.kill(lacking[0].pid, signal.SIGUSR1)
    fleet.at_second_step(lacking[0])
    fleet.go_on()
    assert len(fleet.results()) == 2
    assert all(fleet.begun(each, 2) == [] for each in lacking[1:])
    assert all("can't be" not in each.output() for each in lacking)


def test_the_same_executor_id_again_after_a_kill(fleet: Fleet) -> None:
    fleet.hold()
    first = fleet.worker(executor_id="pod-0", ids=RUNS)
    fleet.at_second_step(first)
    first.kill()
    first.wait()
    fleet.go_on()
    fleet.worker(executor_id="pod-0")
    assert len(fleet.results()) == 2
    for run_id in RUNS:
        assert fleet.steps("begun", run_id) == [1, 2, 2, 3]


@sqlite_here("database_url")
def test_a_database_that_takes_no_writes_for_long(fleet: Fleet) -> None:
    """It answers meanwhile. No worker is dead: none can beat."""
    fleet.hold()
    workers = [fleet.worker(ids=[run_id]) for run_id in RUNS]
    for worker, run_id in zip(workers, RUNS, strict=True):
        fleet.at_second_step(worker, [run_id])
    with fleet.no_writes():
        time.sleep(5)  # two leases
    for _ in range(2):
        before = fleet.beats()
        until(lambda before=before: not set(before) & set(fleet.beats()))
    fleet.go_on()
    fleet.results()
    assert all(fleet.steps("begun", run_id) == [1, 2, 3] for run_id in RUNS)
