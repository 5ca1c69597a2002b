"""What a Worker is in a program: how it is made, and what it refuses."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS

from crewai_dbos import Worker
from crewai_dbos._dbos_seam.database import launched_database
from crewai_dbos._dbos_seam.instance import is_constructed
from crewai_dbos._fleet import membership
from crewai_dbos._fleet.leases import Holder, Leases
from crewai_dbos._fleet.table import workers
from crewai_dbos.errors import DefinitionError, NotLaunchedError
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


def test_what_a_worker_refuses(database_url: str) -> None:
    with pytest.raises(NotLaunchedError, match=r"construct DBOS\(config=\.\.\.\) before it"):
        Worker().__enter__()
    with launched(database_url), pytest.raises(DefinitionError, match=r"in place of DBOS\.launch"):
        Worker().__enter__()
    with pytest.raises(DefinitionError, match="at least one second"):
        Worker(lease=0.5)
    with pytest.raises(DefinitionError, match="grace is -1"):
        Worker(grace=-1)


def test_a_worker_is_used_once(database_url: str) -> None:
    construct(database_url)
    with Worker() as worker:
        pass
    construct(database_url)
    with pytest.raises(DefinitionError, match="is used once"):
        worker.__enter__()


def test_dbos_is_destroyed_in_the_block(database_url: str) -> None:
    construct(database_url, executor_id="pod-7")
    with Worker(grace=0):
        DBOS.destroy()
    assert membership.member() is None
    construct(database_url, executor_id="pod-7")
    begun = time.monotonic()
    with Worker(lease=60, grace=0):
        assert time.monotonic() - begun < 9, "the lease was given up"


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


def test_an_id_that_many_take_at_once(database_url: str) -> None:
    construct(database_url)
    with ThreadPoolExecutor(8) as pool, Worker(grace=0):
        database = launched_database()
        holders = [Holder("pod-1", str(n), "host", "tests", "v") for n in range(8)]
        found = list(pool.map(lambda each: Leases(database, each, 30).take({}), holders))
    assert found.count(None) == 1
