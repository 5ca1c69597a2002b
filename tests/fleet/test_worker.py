"""What a Worker is in a program: how it is made, and what it refuses."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS

from crewai_dbos import Worker
from crewai_dbos._crewai_seam.telemetry import TELEMETRY
from crewai_dbos._dbos_seam.database import launched_database
from crewai_dbos._dbos_seam.instance import is_constructed
from crewai_dbos._fleet import membership
from crewai_dbos._fleet.leases import Definitions, Holder, Leases
from crewai_dbos._fleet.table import workers
from crewai_dbos.control import Control
from crewai_dbos.errors import DefinitionError, NotLaunchedError
from people.conftest import until
from support.databases import sqlite_here
from support.launching import launched
from support.postgres import Postgres


def construct(url: str, **config: Any) -> None:
    DBOS(config={"name": "tests", "system_database_url": url, "log_level": "CRITICAL", **config})


def test_a_worker_launches_dbos_and_has_an_id_of_its_own(database_url: str) -> None:
    construct(database_url)
    with Worker() as worker:
        assert worker.executor_id.startswith(f"{os.uname().nodename}:{os.getpid()}:")
        assert DBOS.start_workflow(whose).get_result() == worker.executor_id
        threading.Timer(0.1, worker.stop).start()
        worker.run()
    with pytest.raises(Exception, match="DBOS"):
        DBOS.start_workflow(whose)


@DBOS.workflow()
def whose() -> str:
    (run,) = DBOS.list_workflows(workflow_ids=[str(DBOS.workflow_id)])
    return str(run.executor_id)


@sqlite_here("database_url")
def test_handlers_of_the_program_are_its_own(database_url: str) -> None:
    """Those that it has set before the block, and those that it sets in it."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        construct(database_url)
        with Worker():
            assert signal.getsignal(signal.SIGTERM) != before
        assert signal.getsignal(signal.SIGTERM) == before

        construct(database_url)
        with Worker():
            signal.signal(signal.SIGTERM, _ignore)
        assert signal.getsignal(signal.SIGTERM) is _ignore

        construct(database_url)
        with Worker():
            assert signal.getsignal(signal.SIGTERM) is _ignore
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_comes_after_run_is_ended_by_a_signal(database_url: str, number: int) -> None:
    """As what comes before it is. `run` has returned because somebody said `stop`."""
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    construct(database_url)

    def stopped_and_ended() -> None:
        with Worker() as worker:
            worker.stop()
            worker.run()
            os.kill(os.getpid(), number)
            threading.Event().wait(60)

    try:
        with pytest.raises((SystemExit, KeyboardInterrupt)):
            stopped_and_ended()
        assert {each: signal.getsignal(each) for each in before} == before
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@pytest.mark.crash
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_worker_that_has_ended_in_another_thread_is_no_matter_of_a_signal(
    database_url: str,
) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    construct(database_url)
    worker = Worker()
    worker.__enter__()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(worker.__exit__, None, None, None).result()
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    signal.signal(signal.SIGTERM, before)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_nor_is_one_that_has_ended_there_in_its_own_process(database_url: str) -> None:
    came = threading.Event()

    def telemetry_s(*_: Any) -> None:
        came.set()

    telemetry_s.__module__ = TELEMETRY
    before = signal.signal(signal.SIGTERM, telemetry_s)
    try:
        construct(database_url)
        worker = Worker()
        worker.__enter__()
        assert signal.getsignal(signal.SIGTERM) is not telemetry_s
        with ThreadPoolExecutor(1) as pool:
            pool.submit(worker.__exit__, None, None, None).result()
        os.kill(os.getpid(), signal.SIGTERM)
        assert came.wait(30)
        assert signal.getsignal(signal.SIGTERM) is telemetry_s
    finally:
        signal.signal(signal.SIGTERM, before)


def _ignore(*_: Any) -> None: ...


@sqlite_here("database_url")
def test_an_id_that_was_given_is_kept(database_url: str) -> None:
    construct(database_url, executor_id="pod-7")
    with Worker() as worker:
        assert worker.executor_id == "pod-7"


def test_the_tables_are_those_of_a_launch(postgres: Postgres) -> None:
    """DBOS wakes who waits for a message by a trigger, which a migration makes once."""
    url = postgres.url("fresh_for_a_worker")
    construct(url)
    with Worker(grace=0):
        database = launched_database()
        with database.engine.connect() as connection:
            query = "SELECT count(*) FROM pg_trigger WHERE tgname = 'dbos_notifications_trigger'"
            assert connection.execute(sa.text(query)).scalar() == 1


@sqlite_here("database_url")
def test_what_a_worker_refuses(database_url: str) -> None:
    with pytest.raises(NotLaunchedError, match=r"construct DBOS\(config=\.\.\.\) before it"):
        Worker().__enter__()
    with launched(database_url), pytest.raises(DefinitionError, match=r"in place of DBOS\.launch"):
        Worker().__enter__()
    with pytest.raises(DefinitionError, match="at least one second"):
        Worker(lease=0.5)
    with pytest.raises(DefinitionError, match="grace is -1"):
        Worker(grace=-1)


@sqlite_here("database_url")
def test_a_worker_is_used_once(database_url: str) -> None:
    construct(database_url)
    with Worker() as worker:
        pass
    construct(database_url)
    with pytest.raises(DefinitionError, match="is used once"):
        worker.__enter__()


@sqlite_here("database_url")
def test_dbos_is_destroyed_in_the_block(database_url: str) -> None:
    construct(database_url, executor_id="pod-7")
    with Worker(grace=0):
        DBOS.destroy()
    assert membership.member() is None
    construct(database_url, executor_id="pod-7")
    begun = time.monotonic()
    with Worker(lease=60, grace=0):
        assert time.monotonic() - begun < 9, "the lease was given up"


@sqlite_here("database_url")
def test_a_worker_whose_dbos_is_destroyed_gives_its_lease_up(database_url: str) -> None:
    """The process goes on, and its runs elsewhere."""
    construct(database_url)
    with Worker(lease=1, grace=0) as worker, Control(database_url) as control:
        DBOS.destroy()
        until(lambda: [each.age for each in control.workers()] == [None])
        assert control.workers()[0].executor_id == worker.executor_id


@sqlite_here("database_url")
def test_a_dbos_that_is_destroyed_in_the_middle_of_a_beat_is_no_error(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def destroyed() -> Definitions:
        DBOS.destroy()
        return {}

    construct(database_url)
    with Worker(lease=1, grace=0), Control(database_url) as control:
        member = membership.member()
        assert member is not None
        member.definitions = destroyed
        until(lambda: [each.age for each in control.workers()] == [None])
    assert [each for each in caplog.records if each.levelname == "ERROR"] == []


def test_runs_under_a_program_that_was_no_worker_are_told_of(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with launched(database_url, name="tests", application_version="v1"):
        started = DBOS.start_workflow(stays)
        until(lambda: started.workflow_id in waiting)
    construct(database_url, application_version="v1")
    with Worker(grace=0), caplog.at_level("WARNING"):
        until(lambda: "1 run is of this application and version under 'local'" in caplog.text)


waiting: set[str] = set()


@DBOS.workflow()
def stays() -> None:
    waiting.add(str(DBOS.workflow_id))
    DBOS.sleep(600)


def test_whose_id_another_takes_runs_nothing_more(database_url: str) -> None:
    construct(database_url, executor_id="pod-7")
    with Worker(lease=1, grace=0):
        database = launched_database()
        with database.writing() as connection:
            connection.execute(sa.update(workers(database.schema)).values(token="another"))
        end = time.monotonic() + 60
        while is_constructed():
            assert time.monotonic() < end
            time.sleep(0.05)


def forked(work: Callable[[], object]) -> int:
    """The process id of one that is forked from this one, which works and leaves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


@sqlite_here("database_url")
def test_a_process_that_is_forked_from_a_worker_is_none(database_url: str) -> None:
    """It does not give up the lease of the worker, nor survive a signal as it would."""
    construct(database_url)
    ended: list[int] = []

    def in_the_block() -> None:
        os.waitpid(forked(lambda: worker.__exit__(None, None, None)), 0)
        here, there = os.pipe()
        pid = forked(lambda: (os.write(there, b"."), time.sleep(60)))
        os.read(here, 1)  # it has begun: a signal before that is lost
        os.kill(pid, signal.SIGTERM)
        ended.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        worker.stop()

    with Worker(grace=0) as worker:
        timer = threading.Timer(0.5, in_the_block)
        timer.start()
        worker.run()
        timer.join()
        database = launched_database()
        with database.engine.connect() as connection:
            (beat,) = connection.execute(sa.select(workers(database.schema).c.beat_ms)).scalars()
        assert beat > 0, "the lease is held"
        assert DBOS.start_workflow(whose).get_result() == worker.executor_id
    assert ended == [-signal.SIGTERM]


@sqlite_here("database_url")
def test_a_worker_that_has_lost_its_id_leaves_what_is_constructed_later(database_url: str) -> None:
    construct(database_url)
    with Worker(grace=0) as worker:
        pass
    construct(database_url)
    worker._lost("pod-7")
    DBOS.launch()
    time.sleep(0.5)  # in which it might be destroyed
    assert is_constructed()
    DBOS.destroy()


def test_definitions_are_written_when_they_change(database_url: str) -> None:
    construct(database_url)
    with Worker(grace=0):
        database = launched_database()
        leases = Leases(database, Holder("pod-1", "1", "host", "tests", "v"), 30)
        table = workers(database.schema)
        mine = sa.select(table.c.definitions).where(table.c.executor_id == "pod-1")

        def stored() -> str:
            with database.engine.connect() as connection:
                return str(connection.execute(mine).scalar_one())

        leases.take({"flow": ["a"]})
        assert leases.beat({"flow": ["a", "b"]})
        assert stored() == '{"flow": ["a", "b"]}'
        with database.writing() as connection:
            connection.execute(sa.delete(table).where(table.c.executor_id == "pod-1"))
        assert leases.beat({"flow": ["a", "b"]})
        assert leases.beat({"flow": ["c"]})
        assert stored() == '{"flow": ["c"]}'


def test_an_id_that_many_take_at_once(database_url: str) -> None:
    construct(database_url)
    with ThreadPoolExecutor(8) as pool, Worker(grace=0):
        database = launched_database()
        holders = [Holder("pod-1", str(n), "host", "tests", "v") for n in range(8)]
        found = list(pool.map(lambda each: Leases(database, each, 30).take({}), holders))
    assert found.count(None) == 1
