"""Workers on one database, which are killed, paused and stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOSClient

from crewai_dbos.testing import EffectLog
from crewai_dbos.testing.crash._fork_server import fork_server
from crewai_dbos.testing.crash._jobs import Job
from crewai_dbos.testing.crash._processes import Process
from crewai_dbos.testing.effects import EFFECTS
from fleet import definitions, jobs
from people.conftest import until

pytestmark = pytest.mark.crash

RUNS = ["otters", "seals"]


class Fleet:
    """Workers on one database."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.effects = EffectLog(folder / "effects")
        self._hold = folder / "hold"
        self._folder = folder
        self._processes: list[Process] = []

    def hold(self) -> None:
        """From now on the second step of a run does not end."""
        self._hold.touch()

    def go_on(self) -> None:
        self._hold.unlink()

    def process(self, **order: Any) -> Process:
        log = self._folder / f"{len(self._processes)}.log"
        environment = {EFFECTS: str(self.effects.path), definitions.HOLD: str(self._hold)}
        job = Job(f"{jobs.__name__}:work", {"database_url": self.url, **order}, log, environment)
        process = fork_server(jobs.__name__).start(job)
        self._processes.append(process)
        return process

    def worker(self, **order: Any) -> Process:
        process = self.process(**order)
        process.hear("worker")
        return process

    def steps(self, kind: str, run_id: str) -> list[int]:
        return [
            effect.fields["step"]
            for effect in self.effects.read()
            if effect.kind == kind and effect.fields["run"] == run_id
        ]

    def begun(self, process: Process, number: int) -> list[str]:
        """The runs whose step of this number has begun in this process."""
        return [
            effect.fields["run"]
            for effect in self.effects.read()
            if (effect.kind, effect.fields["pid"]) == ("begun", process.pid)
            and effect.fields["step"] == number
        ]

    def at_second_step(self, process: Process, runs: list[str] = RUNS) -> None:
        until(lambda: sorted(self.begun(process, 2)) == sorted(runs))

    def results(self, runs: list[str] = RUNS) -> list[str]:
        client = DBOSClient(system_database_url=self.url)
        try:
            until(lambda: all(_status(client, run_id) == "SUCCESS" for run_id in runs))
            return [str(client.retrieve_workflow(run_id).get_result()) for run_id in runs]
        finally:
            client.destroy()

    def status(self, run_id: str) -> str:
        client = DBOSClient(system_database_url=self.url)
        try:
            return _status(client, run_id)
        finally:
            client.destroy()

    def end(self) -> None:
        for process in self._processes:
            process.end()


def _status(client: DBOSClient, run_id: str) -> str:
    return str(client.retrieve_workflow(run_id).get_status().status)


@pytest.fixture
def fleet(database_url: str, tmp_path: Path) -> Iterator[Fleet]:
    found = Fleet(database_url, tmp_path)
    yield found
    found.end()


def test_a_worker_that_is_killed(fleet: Fleet) -> None:
    fleet.hold()
    first = fleet.worker(ids=RUNS)
    fleet.at_second_step(first)
    second, gone = fleet.worker(), first.hear("worker")
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


def test_its_places_in_a_queue_are_free_again(fleet: Fleet) -> None:
    fleet.hold()
    first = fleet.worker(ids=RUNS, queue=jobs.QUEUE, at_once=1)
    until(lambda: fleet.begun(first, 2))
    first.kill()
    first.wait()
    fleet.go_on()
    fleet.worker(at_once=1)
    assert len(fleet.results()) == 2


def test_a_worker_that_stood_still_records_nothing(fleet: Fleet) -> None:
    fleet.hold()
    first = fleet.worker(ids=RUNS)
    fleet.at_second_step(first)
    os.kill(first.pid, signal.SIGSTOP)
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


def test_a_worker_without_the_definition_leaves_the_run_to_one_that_has_it(fleet: Fleet) -> None:
    lacking = fleet.worker(with_late=False)
    fleet.worker(ids=["x"], flow="late")  # takes what it starts itself
    fleet.results(["x"])
    fleet.hold()
    starter = fleet.worker(ids=RUNS, flow="late")
    fleet.at_second_step(starter)
    starter.kill()
    starter.wait()
    fleet.go_on()
    assert len(fleet.results()) == 2
    assert fleet.begun(lacking, 3) == []


def test_one_that_gets_the_definition_later_takes_what_the_others_lack(fleet: Fleet) -> None:
    fleet.hold()
    starter = fleet.worker(ids=RUNS, flow="late")
    fleet.at_second_step(starter)
    starter.kill()
    starter.wait()
    fleet.go_on()
    lacking = fleet.worker(with_late=False)
    until(lambda: lacking.output().count("no DBOSFlow named 'late' is defined") == 2)
    fleet.worker()
    assert len(fleet.results()) == 2
    assert "Its runs are left to" in lacking.output()


def test_two_processes_with_one_executor_id(fleet: Fleet) -> None:
    first = fleet.worker(executor_id="pod-0")
    second = fleet.process(executor_id="pod-0").wait()
    assert f"'pod-0' is that of {os.uname().nodename}:{first.pid}, which lives" in second.result


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
