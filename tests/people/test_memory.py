"""Runs that were left to their rows, or cancelled, leave nothing behind in the process."""

from __future__ import annotations

import gc

import pytest
from dbos import DBOS

from crewai_dbos import People
from crewai_dbos._journal.journal import Journal
from people.conftest import Desk, status, until
from people.office import Post, office, writing
from support.serving import Serve

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
