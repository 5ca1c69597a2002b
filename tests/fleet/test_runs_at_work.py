"""Which runs a worker carries out: also those that are called, and none that it has lost."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from crewai.flow.flow import Flow, start
from dbos import DBOS, SetWorkflowID
from dbos._sys_db import SystemDatabase
from sqlalchemy.exc import OperationalError

from crewai_dbos import DBOSFlow, Worker, step
from crewai_dbos._dbos_seam import at_work
from crewai_dbos._fleet.leases import Leases
from crewai_dbos.control import Control
from people.conftest import until
from support.databases import sqlite_here
from support.launching import QUICK, launched
from support.names import unique

CALLS: list[str] = []
BEGUN, GOES_ON = threading.Event(), threading.Event()

pytestmark = sqlite_here("database_url")


@pytest.fixture(autouse=True)
def nothing_was_called() -> Iterator[None]:
    CALLS.clear()
    BEGUN.clear()
    GOES_ON.clear()
    yield
    GOES_ON.set()


def call(what: str) -> str:
    CALLS.append(what)
    if what == "second":
        BEGUN.set()
        assert GOES_ON.wait(60)
    return what


class Calling(Flow[dict[str, Any]]):
    @start()
    def method(self) -> str:
        return step(call, "first") + step(call, "second") + step(call, "third")


class Waiting(Flow[dict[str, Any]]):
    @start()
    async def method(self) -> str:
        first = step(call, "first")
        BEGUN.set()
        while not GOES_ON.is_set():
            await asyncio.sleep(0.01)
        return first + step(call, "third")


def worker_on(url: str) -> Worker:
    DBOS(config={**QUICK, "system_database_url": url, "log_level": "CRITICAL"})
    return Worker(grace=60)


@pytest.mark.parametrize("how", ["kickoff", "kickoff_async"])
def test_a_run_that_is_called_has_the_grace_of_its_worker(
    database_url: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    flow = DBOSFlow(flow_name=unique("calling"), orig_flow=Calling)
    found: list[Any] = []

    def kick_off() -> None:
        if how == "kickoff":
            found.append(flow.kickoff())
        else:
            found.append(asyncio.run(flow.kickoff_async()))

    thread = threading.Thread(target=kick_off)
    with caplog.at_level(logging.INFO, "crewai_dbos"):
        with worker_on(database_url):
            thread.start()
            assert BEGUN.wait(60)
            assert len(at_work.run_ids()) == 1
            threading.Timer(1.5, GOES_ON.set).start()  # in the grace, which the block's end begins
        thread.join()
    assert found == ["firstsecondthird"]
    assert CALLS == ["first", "second", "third"]
    assert "1 run has 60 s to end" in caplog.text
    assert "goes on at another worker" not in caplog.text


def test_one_that_has_ended_is_at_work_no_more(database_url: str) -> None:
    flow = DBOSFlow(flow_name=unique("calling"), orig_flow=Calling)
    GOES_ON.set()
    with launched(database_url):
        assert flow.kickoff() == "firstsecondthird"
        assert at_work.run_ids() == []


async def asked(flow: DBOSFlow, run_id: str) -> Any:
    with SetWorkflowID(run_id):
        return await flow.kickoff_async()


async def begun(flow: DBOSFlow, run_id: str) -> asyncio.Task[Any]:
    """Who asks for a run, which is at work now."""
    asking = asyncio.create_task(asked(flow, run_id))
    while not BEGUN.is_set():
        await asyncio.sleep(0.01)
    return asking


@pytest.mark.parametrize("is_worker", [True, False])
def test_one_that_nobody_waits_for_any_more_goes_on(
    database_url: str, is_worker: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """At a worker by itself; in another program when it is asked for again."""
    flow = DBOSFlow(flow_name=unique("waiting"), orig_flow=Waiting)
    run_id = unique("run")

    async def given_up() -> None:
        asking = await begun(flow, run_id)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    def result() -> Any:
        return asyncio.run(asyncio.wait_for(asked(flow, run_id), 60))

    if is_worker:
        with worker_on(database_url):
            asyncio.run(given_up())
            assert "It goes on at a worker" in caplog.text
            GOES_ON.set()
            until(lambda: DBOS.retrieve_workflow(run_id).get_status().status == "SUCCESS")
            assert result() == "firstthird"
    else:
        with launched(database_url):
            asyncio.run(given_up())
            assert "when it is asked for again under its id" in caplog.text
            GOES_ON.set()
            assert result() == "firstthird"
    assert CALLS == ["first", "third"]


def test_a_caller_that_is_cancelled_again_and_again_waits_for_the_call_in_flight(
    database_url: str,
) -> None:
    """As anyio cancels it. Else a worker would make the call beside the one that is being made."""
    flow = DBOSFlow(flow_name=unique("calling"), orig_flow=Calling)
    run_id = unique("run")

    async def given_up() -> None:
        asking = await begun(flow, run_id)
        for _ in range(100):
            asking.cancel()
            await asyncio.sleep(0)
        assert not asking.done()
        GOES_ON.set()
        with pytest.raises(asyncio.CancelledError):
            await asking

    with worker_on(database_url):
        asyncio.run(given_up())
        until(lambda: DBOS.retrieve_workflow(run_id).get_status().status == "SUCCESS")
    assert CALLS == ["first", "second", "third"]


class Interrupted(Flow[dict[str, Any]]):
    @start()
    def method(self) -> str:
        first = step(call, "first")
        if not BEGUN.is_set():
            BEGUN.set()
            raise KeyboardInterrupt
        return first + step(call, "third")


def test_one_that_ctrl_c_has_ended_goes_on_when_it_is_asked_for_again(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a notebook, whose process lives on."""
    flow = DBOSFlow(flow_name=unique("interrupted"), orig_flow=Interrupted)
    run_id = unique("run")
    with launched(database_url):
        with SetWorkflowID(run_id), pytest.raises(KeyboardInterrupt):
            flow.kickoff()
        assert "when it is asked for again under its id" in caplog.text
        with SetWorkflowID(run_id):
            assert flow.kickoff() == "firstthird"
    assert CALLS == ["first", "third"]


class Once(Flow[dict[str, Any]]):
    @start()
    def method(self) -> str:
        return step(call, "first")


def test_a_claim_whose_answer_was_lost_is_made_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The database has committed it and failed over: DBOS does not know what it has taken."""
    flow = DBOSFlow(flow_name=unique("once"), orig_flow=Once)
    claim, lost = SystemDatabase.start_queued_workflows, []

    def losing(database: Any, *args: Any, **kwargs: Any) -> Any:
        found = claim(database, *args, **kwargs)
        if found[0] and not lost:
            lost.append(found[0])
            raise OperationalError("COMMIT", {}, Exception("server closed the connection"))
        return found

    monkeypatch.setattr(SystemDatabase, "start_queued_workflows", losing)
    DBOS(config={**QUICK, "system_database_url": database_url, "log_level": "CRITICAL"})
    with Worker(lease=2, grace=0), Control(database_url) as control:
        run_id = control.kickoff(flow.flow_name, {})
        until(lambda: control.run(run_id).state == "done")
        assert lost
        assert "nothing here carries it out" in caplog.text
        # One that works for longer than the lease is left alone.
        slow = DBOSFlow(flow_name=unique("waiting"), orig_flow=Waiting)
        CALLS.clear()
        run = slow.start({})
        assert BEGUN.wait(60)
        looks, leases = [], Leases.claimed
        monkeypatch.setattr(Leases, "claimed", lambda self: looks.append(1) or leases(self))
        until(lambda: len(looks) > 14)
        GOES_ON.set()
        assert run.get_result() == "firstthird"
    assert CALLS == ["first", "third"]
