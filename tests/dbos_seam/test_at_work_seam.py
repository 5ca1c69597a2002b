"""What DBOS knows of the workflows that this process carries out."""

from __future__ import annotations

import threading
from pathlib import Path

from dbos import DBOS

from crewai_dbos._dbos_seam import at_work
from people.conftest import until
from support.launching import launched

GOES_ON = threading.Event()


@DBOS.workflow(name="at_work.waits")
def waits() -> str:
    assert GOES_ON.wait(60)
    at_work.begin(str(DBOS.workflow_id))
    return str(at_work.run_ids())


def test_there_may_be_too_few_threads(tmp_path: Path) -> None:
    GOES_ON.clear()
    with launched(f"sqlite:///{tmp_path}/dbos.sqlite", max_executor_threads=1):
        assert not at_work.is_full()
        first = DBOS.start_workflow(waits)
        until(lambda: at_work.run_ids() == [first.workflow_id])
        assert not at_work.is_full()
        second = DBOS.start_workflow(waits)
        until(at_work.is_full)
        GOES_ON.set()
        first.get_result()
        second.get_result()
        until(lambda: not at_work.is_full())
    assert not at_work.is_full()


def test_one_that_is_called_is_known_until_the_call_returns(tmp_path: Path) -> None:
    GOES_ON.set()
    with launched(f"sqlite:///{tmp_path}/dbos.sqlite"):
        assert waits() == "[]", "DBOS knows nothing of it"
        with at_work.calling():
            assert waits() != "[]"
            assert len(at_work.run_ids()) == 1
        assert at_work.run_ids() == []
