"""DBOS destroyed, and launched again, in one process: what waits, and what works after it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crewai.flow.flow import Flow, start
from dbos import DBOS, DBOSClient, SetWorkflowID
from dbos._core import WorkflowHandlePolling
from dbos._error import DBOSException
from dbos._sys_db import SystemDatabase

from crewai_dbos import DBOSFlow, People, Worker, step
from crewai_dbos._dbos_seam.instance import is_shut_down
from crewai_dbos.control import Approve, Control
from crewai_dbos.errors import NotLaunchedError, RunCancelledError
from crewai_dbos.testing import hang, text
from people.conftest import Called, Desk, until
from people.office import Post, office, writing
from support.controlling import crew_of
from support.databases import sqlite_here
from support.launching import QUICK, launched
from support.names import unique
from support.serving import Serve, serving

HELD = threading.Event()
CALLS: list[str] = []


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    HELD.clear()
    CALLS.clear()
    yield
    HELD.set()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    yield from serving(monkeypatch, lambda _: text("done"))


def held(run: str) -> str:
    CALLS.append(run)
    HELD.wait(60)
    return run


class One(Flow[dict[str, Any]]):
    @start()
    def one(self) -> str:
        return step(held, self.state["run"])


def began(run_id: str) -> DBOSFlow:
    """A flow of which a run is at work."""
    flow = DBOSFlow(flow_name=unique("flow"), orig_flow=One, events=True)
    with SetWorkflowID(run_id):
        flow.start(inputs={"run": run_id})
    until(lambda: run_id in CALLS)
    return flow


@sqlite_here("database_url")
def test_whoever_waits_hears_of_it(database_url: str) -> None:
    run_id = unique("run")
    with launched(database_url):
        flow = began(run_id)
        client = DBOSClient(system_database_url=database_url)
        waits = [
            Called(flow.retrieve(run_id).get_result),
            Called(lambda: asyncio.run(flow.retrieve(run_id).get_result_async())),
        ]
        of_dbos = Called(lambda: DBOS.retrieve_workflow(run_id).get_result())
        of_client = Called(flow.retrieve(run_id, client=client).get_result)
    for wait in waits:
        with pytest.raises(NotLaunchedError, match="goes on at the next"):
            wait.result()
    with pytest.raises(DBOSException):
        of_dbos.result()
    client.destroy()
    with pytest.raises(NotLaunchedError):
        of_client.result()
    HELD.set()
    with launched(database_url):
        assert flow.retrieve(run_id).get_result() == run_id


@DBOS.workflow(name="launched_again.waits")
def waits(run_id: str, of_ours: bool) -> str:
    CALLS.append("waits")
    if of_ours:
        return str(WAITED_FOR[run_id].retrieve(run_id).get_result())
    return str(DBOS.retrieve_workflow(run_id).get_result(polling_interval_sec=0.02))


WAITED_FOR: dict[str, DBOSFlow] = {}


@sqlite_here("database_url")
@pytest.mark.parametrize("of_ours", [True, False], ids=["ours", "dbos"])
def test_a_workflow_that_waits_is_not_ended_by_it(
    database_url: str, of_ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DBOS records the error of a wait in the workflow that waits."""
    defaults = WorkflowHandlePolling.get_result.__kwdefaults__
    monkeypatch.setitem(defaults, "polling_interval_sec", 0.02)
    run_id, waiting, looked = unique("run"), unique("waiting"), looks(monkeypatch)
    with launched(database_url):
        WAITED_FOR[run_id] = began(run_id)
        with SetWorkflowID(waiting):
            DBOS.start_workflow(waits, run_id, of_ours)
        until(lambda: run_id in looked)
    HELD.set()
    with launched(database_url):
        assert DBOS.retrieve_workflow(waiting).get_result() == run_id


@sqlite_here("database_url")
def test_a_call_is_left_while_the_others_end(database_url: str, serve: Serve) -> None:
    """The run is cancelled in the time that a destroy gives to what is at work."""
    at_llm = hang(text("Late."))
    serve(lambda _: at_llm)
    crew, run_id = crew_of(), unique("run")
    with launched(database_url), Control(database_url) as control:
        with SetWorkflowID(run_id):
            crew.start()
        at_llm.wait_until_held(timeout=60)
        ending = Called(lambda: DBOS.destroy(workflow_completion_timeout_sec=60))
        until(is_shut_down)
        control.cancel(run_id)
        ending.result()  # at once, and not when the model has answered
        assert control.run(run_id).state == "cancelled"
    at_llm.release()


def refused(held: threading.Event) -> None:
    CALLS.append("refused")
    held.wait(60)
    raise ValueError("The order has no address.")


@sqlite_here("database_url")
@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_run_that_ends_in_the_time_that_a_destroy_gives_it(
    database_url: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = WorkflowHandlePolling.get_result.__kwdefaults__
    monkeypatch.setitem(defaults, "polling_interval_sec", 600)
    run_id, other, may_end = unique("run"), unique("run"), threading.Event()
    looked = looks(monkeypatch)

    class Refused(Flow[dict[str, Any]]):
        @start()
        def one(self) -> None:
            step(refused, may_end)

    with launched(database_url), Control(database_url) as control:
        began(other)  # until this has ended, the database is not left
        flow = DBOSFlow(flow_name=unique("flow"), orig_flow=Refused)
        with SetWorkflowID(run_id):
            run = flow.start()
        until(lambda: "refused" in CALLS)
        ending = Called(lambda: DBOS.destroy(workflow_completion_timeout_sec=60))
        until(is_shut_down)
        # DBOS may leave the database a second after the run has ended: looked at more often.
        wait = Called(run.get_result)
        until(lambda: run_id in looked)
        if end == "cancelled":
            control.cancel(run_id, by="ann")
        may_end.set()
        expected: Any = (
            (ValueError, "no address") if end == "failed" else (RunCancelledError, "ann")
        )
        with pytest.raises(expected[0], match=expected[1]):
            wait.result()
        HELD.set()
        ending.result()


@sqlite_here("database_url")
def test_a_wait_goes_on_with_the_next_launch(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, defaults = unique("run"), WorkflowHandlePolling.get_result.__kwdefaults__
    monkeypatch.setitem(defaults, "polling_interval_sec", 3.0)
    looked = looks(monkeypatch)
    with launched(database_url):
        flow = began(run_id)
        wait = Called(flow.retrieve(run_id).get_result)
        until(lambda: run_id in looked)
    HELD.set()
    with launched(database_url):
        assert wait.result() == run_id


def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that somebody who waits has looked for, from now on.

    Not by the stacks of all threads: up to Python 3.11.4 it may hang to ask for them.
    """
    found: list[str] = []
    check = SystemDatabase.check_workflow_result

    def checked(system: SystemDatabase, workflow_id: str, *args: Any, **options: Any) -> Any:
        found.append(workflow_id)
        return check(system, workflow_id, *args, **options)

    monkeypatch.setattr(SystemDatabase, "check_workflow_result", checked)
    return found


def test_all_works_again(database_url: str, tmp_path: Path, serve: Serve) -> None:
    """Definitions, patches, the watcher of calls, those who listen to people, and events."""
    post, crew = Post(), crew_of()
    asking = office(post, People(approve_tools=["send_email"], linger=0.1))
    elsewhere = f"sqlite:///{tmp_path}/elsewhere.sqlite"
    for number, url in enumerate([database_url, database_url, elsewhere, database_url], 1):
        with launched(url, serializer=None), Control(url) as control:
            serve(writing({"to": "ann@example.org", "body": "Hello."}))
            desk = Desk(control)
            asked = asking.start({"who": "Ann"})
            desk.parked(asked.workflow_id)
            desk.answer(asked.workflow_id, Approve())
            asked.get_result()
            assert len(post.sent) == number

            at_llm = hang(text("Late."))
            serve(lambda _, at_llm=at_llm: at_llm)
            run = crew.start({"topic": "otters"})
            at_llm.wait_until_held()
            control.cancel(run.workflow_id)
            with pytest.raises(RunCancelledError):
                run.get_result()
            at_llm.release()

            HELD.clear()
            run_id = unique("run")
            flow = began(run_id)
            HELD.set()
            assert flow.retrieve(run_id).get_result() == run_id
            types = [event.type for event in control.events(run_id, follow=True)]
            assert (types[0], types[-1]) == ("run.started", "run.ended")


def test_a_worker_again(database_url: str) -> None:
    run_id, ids = unique("run"), []
    for times in range(2):
        DBOS(config={**QUICK, "system_database_url": database_url, "log_level": "CRITICAL"})
        with Worker(lease=2, grace=0) as worker:
            ids.append(worker.executor_id)
            if not times:
                flow = began(run_id)
            else:
                HELD.set()
                assert flow.retrieve(run_id).get_result() == run_id
    assert ids[0] != ids[1]
    assert [run_id, run_id] == CALLS, "once cut short"
