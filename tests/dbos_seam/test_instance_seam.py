"""The DBOS instance, what it was configured with, and its threads (read at 3.4.0)."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

from dbos import DBOS, Queue
from dbos._sys_db import SystemDatabase
from dbos._utils import GlobalParams

from crewai_dbos._dbos_seam.at_work import run_ids as runs_at_work
from crewai_dbos._dbos_seam.configuration import configuration, whole_configuration
from crewai_dbos._dbos_seam.instance import (
    has_left_database,
    is_launched,
    is_shut_down,
    launched_instance,
    looking_first,
    poll_internal_queue,
    system_database,
)
from crewai_dbos._dbos_seam.parking import listens_to
from crewai_dbos._dbos_seam.threads import (
    on_the_loop_of_dbos,
    on_the_own_loop_of_dbos,
    on_workflow_thread,
)
from support.launching import QUICK, go_on_as_dbos_does, launched
from support.names import unique
from support.runs import afollow, finish, fork, run_id


def test_launched_is_from_launch_to_destroy(url: str) -> None:
    assert not is_launched()
    DBOS(config={"name": "seam", "system_database_url": url, "log_level": "ERROR"})
    assert not is_launched()
    DBOS.destroy()
    with launched(url):
        assert is_launched()
    assert not is_launched()


def test_it_is_shut_down_from_the_beginning_of_its_end(url: str) -> None:
    seen: list[bool] = []

    class Stopping(threading.Event):
        def set(self) -> None:
            seen.append(is_shut_down())
            super().set()

    with launched(url):
        assert not is_shut_down()
        # DBOS sets these first, while workflows are still at work.
        launched_instance().background_thread_stop_events.append(Stopping())
    assert seen == [True]
    assert is_shut_down()


def test_the_threads_and_the_loop_that_dbos_runs_workflows_on_are_known(url: str) -> None:
    async def aplan() -> bool:
        return on_the_loop_of_dbos()

    async def elsewhere() -> bool:
        return on_the_loop_of_dbos()

    with launched(url):
        assert finish(on_workflow_thread, run_id())
        assert not on_workflow_thread()
        assert finish(aplan, run_id(), afollow)
        assert not asyncio.run(elsewhere())
        assert not on_the_loop_of_dbos()


def test_whether_it_is_a_loop_that_dbos_has_made(url: str) -> None:
    async def aplan() -> bool:
        return on_the_own_loop_of_dbos()

    with launched(url):
        assert finish(aplan, run_id(), afollow)
        assert not asyncio.run(aplan())


def test_what_is_at_work_here(url: str) -> None:
    assert runs_at_work() == []
    with launched(url):
        assert finish(runs_at_work, run := run_id()) == [run]
        assert runs_at_work() == []


def test_the_database_is_left_at_the_end(url: str) -> None:
    assert has_left_database()
    with launched(url):
        assert not has_left_database()
    assert has_left_database()


def test_which_queues_it_takes_runs_from(url: str) -> None:
    with launched(url):
        assert listens_to("any")
    DBOS(config={"system_database_url": url, **QUICK})
    try:
        DBOS.listen_queues(["one"])
        DBOS.launch()
        assert listens_to("one")
        assert not listens_to("another")
    finally:
        DBOS.destroy()


def test_the_configuration_is_that_of_the_instance(url: str) -> None:
    assert configuration() is None
    assert whole_configuration() is None
    with launched(url):
        found, whole = configuration(), whole_configuration()
        assert found is not None
        assert whole is not None
        assert found["system_database_url"] == whole["system_database_url"] == url
        assert "application_version" not in found


def test_the_system_database_asks_and_records_where_the_testing_tools_stand() -> None:
    wanted = ["workflow_id", "function_id", "function_name"]
    assert parameters(SystemDatabase._check_operation_execution_txn) == [*wanted, "conn"]
    assert parameters(SystemDatabase.check_operation_execution)[:3] == wanted
    assert parameters(SystemDatabase.record_operation_result)[0] == "result"
    assert parameters(SystemDatabase.update_workflow_outcome)[0] == "workflow_id"
    source = inspect.getsource(SystemDatabase.check_operation_execution)
    assert "self._check_operation_execution_txn(" in source


def parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_how_long_a_recovered_run_waits(url: str) -> None:
    dbos = DBOS(config={"system_database_url": url, **QUICK})
    try:
        poll_internal_queue(dbos, 0.01)
        DBOS.launch()
        queues = {queue.name: queue for queue in dbos._registry.internal_queues()}
        assert queues["_dbos_internal_queue"].polling_interval_sec == 0.01
        first = finish(lambda: "done", run := run_id())
        assert fork(run, 1) == first
    finally:
        DBOS.destroy()


def test_an_empty_queue_is_only_looked_at(database_url: str) -> None:
    claims: list[str] = []

    def claim(system: SystemDatabase, queue: Queue, *args: Any) -> Any:
        claims.append(queue.name)
        return SystemDatabase.start_queued_workflows(system, queue, *args)

    dbos = DBOS(config={"system_database_url": database_url, **QUICK})
    try:
        poll_internal_queue(dbos, 3600)
        DBOS.launch()
        go_on_as_dbos_does()  # definitions of other tests may be here
        queue = next(q for q in dbos._registry.internal_queues() if "internal" in q.name)
        # Of another version than this process, whose first look may be under way.
        process = (GlobalParams.executor_id, version := unique("version"), None)
        poll = functools.partial(looking_first(claim), system_database(), queue, *process)
        finish(lambda: "done", run := run_id())
        assert poll() == ([], None)
        assert claims == []
        waiting = DBOS.fork_workflow(run, 1, application_version=version).workflow_id
        assert poll() == ([waiting], None)
        assert poll() == ([], None)
        assert claims == [queue.name]
    finally:
        DBOS.destroy()
