"""What goes wrong around a worker: its database, its clock, its id, and other people's locks."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from crewai_dbos.testing.crash._processes import Process
from fleet import jobs
from fleet.conftest import RUNS, Fleet
from people.conftest import until

pytestmark = [
    pytest.mark.crash,
    pytest.mark.parametrize("database_url", ["postgres"], indirect=True),
]

LEASES = "dbos.crewai_dbos_workers"


@contextmanager
def locked(fleet: Fleet, table: str) -> Iterator[None]:
    with psycopg.connect(fleet.url) as connection:
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield
        connection.rollback()


@contextmanager
def frozen_leases(fleet: Fleet) -> Iterator[int]:
    """The connections that beat leases say nothing, and are not closed."""
    found = f"SELECT pid FROM pg_stat_activity WHERE query LIKE '%{LEASES}%' OR query = 'COMMIT'"
    # Not one at work, which may hold what the whole server waits for.
    idle = f"SELECT pid FROM pg_stat_activity WHERE state = 'idle' AND pid IN ({found})"
    pids = [pid for (pid,) in fleet.rows(f"{idle} AND pid <> pg_backend_pid()")]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield len(pids)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def has_ended(process: Process) -> bool:
    return not os.path.exists(f"/proc/{process.pid}") or b"Z" in _state(process)


def _state(process: Process) -> bytes:
    with open(f"/proc/{process.pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[0]


def between(fleet: Fleet, process: Process) -> bool:
    """Whether the process's runs are between two calls."""
    return len(
        [
            each
            for each in fleet.effects.read()
            if (each.kind, each.fields["pid"]) == ("between", process.pid)
        ]
    ) == len(RUNS)


def test_a_second_one_with_the_id_of_a_live_one_takes_nothing(fleet: Fleet) -> None:
    fleet.hold()
    first = fleet.worker(executor_id="pod-0", ids=RUNS, poll=1)
    fleet.at_second_step(first)
    second = fleet.process(executor_id="pod-0")
    said = f"'pod-0' is that of {os.uname().nodename}:{first.pid}, which lives"
    assert said in second.wait().result
    assert fleet.begun(second, 2) == []
    fleet.go_on()
    fleet.results()
    assert fleet.begun(first, 3)


def test_no_run_is_taken_before_the_lease_is_held(fleet: Fleet) -> None:
    fleet.worker(deaf=True, ids=RUNS, queue=jobs.QUEUE)
    with locked(fleet, LEASES):
        new = fleet.process()
        until(lambda: fleet.rows("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
        time.sleep(3)  # in which it would look at the queue
        assert fleet.begun(new, 1) == []
    new.hear("worker")
    fleet.results()


def test_a_worker_that_wakes_makes_no_call_beside_the_new_owner(fleet: Fleet) -> None:
    fleet.hold()
    first = fleet.worker(flow="between", ids=RUNS)
    until(lambda: between(fleet, first))
    beat = fleet.rows(f"SELECT beat_ms FROM {LEASES}")
    os.kill(first.pid, signal.SIGSTOP)
    second = fleet.worker()
    until(lambda: between(fleet, second))
    os.kill(first.pid, signal.SIGCONT)
    mine = f"SELECT beat_ms FROM {LEASES} WHERE process LIKE '%:{first.pid}'"
    until(lambda: fleet.rows(mine) != beat)  # it beats again, before its runs go on
    fleet.go_on()
    fleet.results()
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait().result == "stopped"
    assert fleet.begun(first, 2) == []


def test_connections_that_are_frozen(fleet: Fleet) -> None:
    """A worker keeps its lease, takes over from others, and ends."""
    fleet.hold()
    gone = fleet.worker(ids=["x"])
    fleet.at_second_step(gone, ["x"])
    worker = fleet.worker()
    gone.kill()
    gone.wait()
    with frozen_leases(fleet) as count:
        assert count > 0
        beat = f"SELECT beat_ms FROM {LEASES} WHERE process LIKE '%:{worker.pid}'"
        before = fleet.rows(beat)
        until(lambda: fleet.rows(beat) != before, seconds=180)
        until(lambda: "1 of its runs goes on: x" in worker.output(), seconds=180)
        os.kill(worker.pid, signal.SIGTERM)
        until(lambda: has_ended(worker), seconds=180)


def test_one_id_in_two_versions(fleet: Fleet) -> None:
    fleet.hold()
    fleet.worker(lease=6)
    first = fleet.worker(executor_id="pod-0", ids=RUNS)
    fleet.at_second_step(first)
    first.kill()
    first.wait()
    fleet.worker(executor_id="pod-0", version="v2")
    fleet.go_on()
    assert len(fleet.results()) == 2


def test_runs_that_are_put_back_while_connections_are_cut(fleet: Fleet) -> None:
    """They do not say of what they are, so that the worker takes each to find out."""
    lacking = fleet.worker(lease=60, with_late=False)
    ids = [f"run-{number}" for number in range(6)]
    for run_id in ids:
        fleet.ask("late", run_id)
        fleet.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
    fleet.worker(lease=60)
    fleet.results(ids)
    assert fleet.begun(lacking, 1) == []


def test_a_second_signal_ends_the_process_and_its_lease(fleet: Fleet) -> None:
    fleet.hold()
    first = fleet.worker(ids=RUNS, lease=60)
    fleet.at_second_step(first)
    os.kill(first.pid, signal.SIGTERM)
    until(lambda: "2 runs have 30 s to end" in first.output())
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait().code == 128 + signal.SIGTERM
    assert {status for (status,) in fleet.rows("SELECT status FROM dbos.workflow_status")} == {
        "PENDING"
    }
    fleet.go_on()
    fleet.worker()
    assert len(fleet.results()) == 2
