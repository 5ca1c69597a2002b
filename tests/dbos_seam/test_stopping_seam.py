"""The seam to the rows of runs that are cancelled and go on: what DBOS makes of what we write."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from dbos import DBOS, SetWorkflowID, SetWorkflowTimeout, error

from crewai_dbos._dbos_seam import stopping, stored_contents
from crewai_dbos._dbos_seam.database import launched_database
from people.conftest import status, until
from support.launching import launched
from support.names import unique


@pytest.fixture(autouse=True, params=["sqlite", "postgres"])
def _database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    if request.param == "sqlite":
        with launched(f"sqlite:///{tmp_path}/dbos.sqlite"):
            yield
        return
    with request.getfixturevalue("databases").fresh() as url, launched(url):
        yield


ENOUGH = threading.Event()


@DBOS.workflow()
def longer_than_its_time() -> str:
    ENOUGH.wait(30)
    DBOS.sleep(0.01)
    return "done"


def is_cut_off(run_id: str) -> bool:
    try:
        return bool(DBOS.retrieve_workflow(run_id).get_result() != "done")
    except error.DBOSAwaitedWorkflowCancelledError:
        return True


def resume(run_id: str, timeout_ms: int | None) -> None:
    database = launched_database()
    with database.writing() as connection:
        stopping.resume(database, connection, run_id, {}, None, timeout_ms)


def test_dbos_gives_the_same_time_again_and_we_what_is_asked_for() -> None:
    ENOUGH.clear()
    with SetWorkflowID(run_id := unique("run")), SetWorkflowTimeout(0.3):
        DBOS.start_workflow(longer_than_its_time)
    assert is_cut_off(run_id)
    DBOS.resume_workflow(run_id)
    assert is_cut_off(run_id)
    resume(run_id, 300)
    assert is_cut_off(run_id)
    for timeout_ms, limit in ((60_000, True), (None, False)):
        resume(run_id, timeout_ms)
        until(lambda: status(run_id) == "PENDING")
        found = DBOS.get_workflow_status(run_id)
        assert found is not None
        assert (found.workflow_deadline_epoch_ms is not None) == limit
        if limit:
            DBOS.cancel_workflow(run_id)
    ENOUGH.set()
    assert not is_cut_off(run_id)


def test_what_is_cancelled_is_as_if_dbos_had_done_it() -> None:
    with SetWorkflowID(run_id := unique("run")):
        DBOS.enqueue_workflow("nobody's", longer_than_its_time)
    other = DBOS.enqueue_workflow("nobody's", longer_than_its_time).get_workflow_id()
    DBOS.cancel_workflow(other)
    database = launched_database()
    with database.writing() as connection:
        (found,) = stopping.runs_to_change(database, connection, run_id)
        assert (found.status, found.queue, found.is_alive) == ("ENQUEUED", "nobody's", True)
        now = database.now_of(connection)
        stopping.cancel(database, connection, {run_id: {"own": 1}, "no such run": {}}, now)
    ours, dbos = DBOS.get_workflow_status(run_id), DBOS.get_workflow_status(other)
    assert ours is not None
    assert dbos is not None
    assert ours.attributes == {"own": 1}
    for name in ("status", "queue_name", "deduplication_id", "executor_id", "output", "error"):
        assert getattr(ours, name) == getattr(dbos, name), name
    assert ours.completed_at is not None
    with database.writing() as connection:
        assert stopping.runs_to_change(database, connection, "no such run") == []


@DBOS.workflow()
def parent(count: int) -> list[str]:
    return [
        DBOS.enqueue_workflow("nobody's", longer_than_its_time).get_workflow_id()
        for _ in range(count)
    ]


def test_those_that_a_run_has_started() -> None:
    with SetWorkflowID(run_id := unique("run")):
        children = parent(3)
    DBOS.cancel_workflow(children[0])
    database = launched_database()
    with database.writing() as connection:
        found = stopping.runs_to_change(database, connection, run_id, with_children=True)
        assert [each.run_id for each in found[:1]] == [run_id]
        assert sorted(each.run_id for each in found[1:]) == sorted(children)
        assert stopping.alive_children(database, connection, [run_id, "no such"]) == {run_id: 2}
        assert stored_contents.order_of(database, connection, run_id) is None, "that is a pickle"
