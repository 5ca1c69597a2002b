"""What a Worker is in a program: how it is made, and what it refuses."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest
from dbos import DBOS

from crewai_dbos import Worker
from crewai_dbos.errors import DefinitionError, NotLaunchedError
from support.launching import launched


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


def test_what_a_worker_refuses(database_url: str) -> None:
    with pytest.raises(NotLaunchedError, match=r"construct DBOS\(config=\.\.\.\) before it"):
        Worker().__enter__()
    with launched(database_url), pytest.raises(DefinitionError, match=r"in place of DBOS\.launch"):
        Worker().__enter__()
    with pytest.raises(DefinitionError, match="at least one second"):
        Worker(lease=0.5)
    with pytest.raises(DefinitionError, match="grace is -1"):
        Worker(grace=-1)
