"""The seam to the row of a run that waits: what DBOS makes of the status that we give it."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from dbos import DBOS, SetWorkflowID

from crewai_dbos._dbos_seam.context import current_context
from crewai_dbos._dbos_seam.database import launched_database
from crewai_dbos._dbos_seam.parking import FOR_EVER, park, wake
from support.launching import launched
from support.names import unique

QUEUE = "parking-seam"

_begun: dict[str, Any] = {}


class _Left(BaseException):
    """As the signal that ends a parked run."""


@DBOS.workflow()
def left_to_its_row(until_ms: int) -> str:
    """Is parked the first time, and returns the second."""
    context = current_context()
    assert context is not None
    run_id = context.workflow_id
    if run_id in _begun:
        return "woken"
    _begun[run_id] = context.owner_xid
    database = launched_database()
    with database.writing() as connection:
        assert not park(database, connection, run_id, "somebody else", until_ms, QUEUE)
        assert park(database, connection, run_id, context.owner_xid, until_ms, QUEUE)
        assert not park(database, connection, run_id, context.owner_xid, until_ms, QUEUE)
    raise _Left


def parked(until_ms: int) -> str:
    run_id = unique("parked")
    threading.excepthook, before = lambda _: None, threading.excepthook
    try:
        with SetWorkflowID(run_id), pytest.raises(_Left):
            left_to_its_row(until_ms)
    finally:
        threading.excepthook = before
    return run_id


def test_a_row_that_waits_and_is_woken(database_url: str) -> None:
    with launched(database_url):
        DBOS.register_queue(QUEUE, polling_interval_sec=0.05)
        run_id = parked(FOR_EVER)
        status = DBOS.get_workflow_status(run_id)
        assert (status.status, status.queue_name, status.app_version) == ("DELAYED", QUEUE, None)
        database = launched_database()
        with database.engine.connect() as connection:
            row = database.rows(connection, [run_id, "nobody"])[run_id]
        assert (row.status, row.owner_xid) == ("DELAYED", None)
        with database.writing() as connection:
            wake(database, connection, run_id)
            wake(database, connection, run_id)  # nothing to one that is awake
        assert DBOS.retrieve_workflow(run_id).get_result() == "woken"


def test_dbos_wakes_it_at_its_deadline_and_cancels_it_before(database_url: str) -> None:
    with launched(database_url):
        DBOS.register_queue(QUEUE, polling_interval_sec=0.05)
        soon = parked(int(time.time() * 1000) + 500)
        never = parked(FOR_EVER)
        assert DBOS.retrieve_workflow(soon).get_result() == "woken"
        DBOS.cancel_workflow(never)
        assert DBOS.get_workflow_status(never).status == "CANCELLED"
