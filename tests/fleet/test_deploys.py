"""Runs of an old version that are moved to a new one: whose workers take them, and what is made."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from crewai_dbos.control import Control
from crewai_dbos.errors import DefinitionError, RunStateError
from crewai_dbos.testing.crash._databases import migrate
from fleet import jobs
from fleet.conftest import RUNS, Fleet
from people.conftest import until
from support.databases import some_here, sqlite_here

pytestmark = pytest.mark.crash


@pytest.fixture
def control(fleet: Fleet) -> Iterator[Control]:
    migrate(fleet.url)
    with Control(fleet.url) as found:
        yield found


@pytest.mark.parametrize(
    "database_url", some_here(["sqlite", "postgres"], here=["postgres"]), indirect=True
)
def test_runs_of_a_dead_worker_go_on_under_the_new_version(fleet: Fleet, control: Control) -> None:
    fleet.hold()
    old = fleet.worker(version="v1", ids=RUNS)
    fleet.at_second_step(old)
    new = fleet.worker(version="v2", three_is="Changed")
    refused = control.move_all("v1", version="v2")
    assert refused.moved == ()
    assert all("stop that worker" in told for told in refused.refused.values())
    old.kill()
    old.wait()
    until(lambda: not control.move_all("v1", version="v2").refused)
    fleet.at_second_step(new)
    fleet.go_on()
    assert fleet.results() == ["60", "60"]
    for run_id in RUNS:
        assert fleet.steps("begun", run_id) == [1, 2, 2, 3]
        assert fleet.steps("ended", run_id) == [1, 2, 3]
    assert control.move_all("v1", version="v2") == control.move_all("v2", version="v2")


@sqlite_here("database_url")
def test_a_worker_that_is_at_work_records_nothing_more(fleet: Fleet, control: Control) -> None:
    fleet.hold()
    old = fleet.worker(version="v1", ids=RUNS)
    fleet.at_second_step(old)
    new = fleet.worker(version="v2", three_is="Changed")
    with pytest.raises(RunStateError, match="which lives"):
        control.move(RUNS[0], version="v2")
    for run_id in RUNS:
        assert control.move(run_id, version="v2", even_if_running=True).moved == (run_id,)
    fleet.at_second_step(new)
    fleet.go_on()
    assert fleet.results() == ["60", "60"], "by the new code"
    until(lambda: all(len(fleet.steps("ended", run_id)) == 4 for run_id in RUNS))
    os.kill(old.pid, signal.SIGTERM)
    assert old.wait().result == "stopped"
    assert fleet.begun(old, 3) == [], "the old worker makes no other call"
    for run_id in RUNS:
        assert fleet.steps("begun", run_id) == [1, 2, 2, 3]


@sqlite_here("database_url")
def test_an_old_worker_that_comes_back_finds_nothing(fleet: Fleet, control: Control) -> None:
    fleet.hold()
    old = fleet.process(job="without_a_lease", version="v1", ids=RUNS, executor_id="pod-0")
    fleet.at_second_step(old)
    old.kill()
    old.wait()
    new = fleet.worker(version="v2", three_is="Changed")
    with pytest.raises(RunStateError, match="no Worker"):
        control.move(RUNS[0], version="v2")
    moves = control.move_all("v1", version="v2", even_if_running=True)
    assert sorted(moves.moved) == RUNS
    fleet.at_second_step(new)
    back = fleet.process(job="without_a_lease", version="v1", executor_id="pod-0")
    back.hear("worker")
    fleet.go_on()
    assert fleet.results() == ["60", "60"]
    assert fleet.begun(back, 1) + fleet.begun(back, 2) + fleet.begun(back, 3) == []
    for run_id in RUNS:
        assert fleet.steps("ended", run_id) == [1, 2, 3]


@sqlite_here("database_url")
def test_a_run_that_does_not_fit_is_moved_back(fleet: Fleet, control: Control) -> None:
    fleet.hold()
    old = fleet.worker(version="v1", ids=["otters"])
    until(lambda: fleet.begun(old, 2))
    fleet.worker(version="v2", three_is="Restructured")
    control.move("otters", version="v2", even_if_running=True, by="ann")
    until(lambda: control.run("otters").state == "stopped")
    reason = control.run("otters").reason
    assert "crewai-dbos runs move otters --version v1" in str(reason)
    os.kill(old.pid, signal.SIGKILL)
    old.wait()
    fleet.go_on()
    assert control.move("otters", version="v1").moved == ("otters",)
    assert fleet.status("otters") == "ENQUEUED", "until there is a worker of that version"
    fleet.worker(version="v1")
    assert fleet.results(["otters"]) == ["6"]
    assert fleet.steps("begun", "otters") == [1, 2, 2, 3]


@sqlite_here("database_url")
def test_runs_on_a_queue(fleet: Fleet, control: Control) -> None:
    fleet.hold()
    old = fleet.worker(version="v1", ids=["a", "b", "c"], queue=jobs.QUEUE, at_once=1)
    until(lambda: fleet.begun(old, 2))
    new = fleet.worker(version="v2", at_once=1)
    moves = control.move_all("v1", version="v2")
    assert (len(moves.moved), len(moves.refused)) == (2, 1)
    assert {control.run(run_id).state for run_id in moves.moved} == {"queued"}
    fleet.go_on()
    fleet.results(["a", "b", "c"])
    assert sorted(fleet.begun(new, 1)) == sorted(moves.moved)
    assert all(fleet.steps("begun", run_id) == [1, 2, 3] for run_id in "abc")


@sqlite_here("database_url")
def test_a_version_that_nobody_has(fleet: Fleet, control: Control) -> None:
    fleet.hold()
    old = fleet.worker(version="v1", ids=["otters"])
    until(lambda: fleet.begun(old, 2))
    with pytest.raises(DefinitionError, match=r"'v22'.*There are: v1"):
        control.move("otters", version="v22", even_if_running=True)
    fleet.go_on()
    assert fleet.results(["otters"]) == ["6"]
    with pytest.raises(RunStateError, match="has ended"):
        control.move("otters", version="v1", even_if_running=True)
