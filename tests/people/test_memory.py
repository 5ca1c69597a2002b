"""Runs that were left to their rows, or cancelled, leave nothing behind in the process."""

from __future__ import annotations

import gc

import pytest
from dbos import DBOS

from crewai_dbos import People
from crewai_dbos._journal.journal import Journal
from crewai_dbos.control import Approve
from people.conftest import Desk, status, until
from people.office import Post, office, writing
from support.databases import sqlite_here
from support.leaks import left_by
from support.serving import Serve

pytestmark = sqlite_here("url")

MAIL = {"to": "ann@example.org", "body": "Hello."}


def journals() -> int:
    gc.collect()
    return sum(isinstance(each, Journal) for each in gc.get_objects())


@pytest.mark.parametrize("end", ["parked", "cancelled"])
def test_nothing_is_left_in_memory(end: str, serve: Serve, desk: Desk) -> None:
    serve(writing(MAIL))
    crew = office(Post(), People(approve_tools=["send_email"], linger=0.1))

    def run() -> None:
        run_id = crew.start({"who": "Ann"}).workflow_id
        desk.parked(run_id)
        if end == "cancelled":
            DBOS.cancel_workflow(run_id)
            until(lambda: status(run_id) == "CANCELLED")

    run()  # crewAI's event loop keeps the context that it was started in
    before = journals()
    for _ in range(3):
        run()
    # The thread of the last one may be about to end.
    until(lambda: journals() <= before)


def test_runs_that_wait_and_go_on_leave_nothing(serve: Serve, desk: Desk) -> None:
    server = serve(writing(MAIL))
    crew = office(Post(), People(approve_tools=["send_email"], linger=0.1))

    def wait_and_go_on(times: int) -> None:
        runs = [crew.start({"who": "Ann"}) for _ in range(times)]
        for run in runs:
            desk.parked(run.workflow_id)
            desk.answer(run.workflow_id, Approve())
        for run in runs:
            run.get_result()

    wait_and_go_on(6)
    assert left_by(server, lambda: wait_and_go_on(4), 4) == {}
