"""What the log says of runs that stop and go on: one line each, and no traceback."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID, SetWorkflowTimeout

from crewai_dbos import DBOSCrew
from crewai_dbos.control import Control
from crewai_dbos.errors import RunCancelledError
from crewai_dbos.testing import Hang, Reply, Request, ToolCall, hang, text, tool_calls
from people.conftest import Called, status, until
from support.controlling import crew_of
from support.databases import some_here, sqlite_here
from support.launching import launched
from support.names import unique
from support.serving import Serve, serving

pytestmark = sqlite_here("database_url")

LOUD = {"log_level": "WARNING", "application_version": "1"}
"""DBOS would warn if it could not find the source of some other test's workflow."""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    yield from serving(monkeypatch, lambda _: text("done"))


class Lines(logging.Handler):
    """Whatever DBOS and we have logged from `WARNING` on, and our lines from `INFO` on."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def of(self, logger: str) -> list[str]:
        return [each.getMessage() for each in self.records if each.name == logger]


@pytest.fixture
def lines() -> Iterator[Lines]:
    found = Lines()
    loggers = [(logging.getLogger("dbos"), "WARNING"), (logging.getLogger("crewai_dbos"), "INFO")]
    before = [(logger, logger.level) for logger, _ in loggers]
    for logger, level in loggers:
        logger.addHandler(found)
        logger.setLevel(level)
    yield found
    for logger, level in before:
        logger.removeHandler(found)
        logger.setLevel(level)


def kickoff(crew: DBOSCrew, run_id: str) -> Any:
    with SetWorkflowID(run_id):
        return crew.kickoff({"topic": "otters"})


def akickoff(crew: DBOSCrew, run_id: str) -> Any:
    async def main() -> Any:
        with SetWorkflowID(run_id):
            return await crew.akickoff({"topic": "otters"})

    return asyncio.run(main())


def started(crew: DBOSCrew, run_id: str) -> Any:
    with SetWorkflowID(run_id):
        return crew.start({"topic": "otters"}).get_result()


@pytest.mark.parametrize(
    ("how", "kick_off"),
    some_here(
        product(["cancelled", "late"], [kickoff, akickoff, started]),
        [("cancelled", kickoff), ("late", akickoff), ("cancelled", started)],
    ),
)
def test_a_run_that_is_cancelled_is_one_line(
    how: str, kick_off: Callable[..., Any], serve: Serve, lines: Lines, database_url: str
) -> None:
    held = hang(text("Late."))
    serve(lambda request: held)
    run_id = unique("run")
    with (
        launched(database_url, **LOUD),
        Control(database_url) as control,
    ):
        if how == "late":
            with SetWorkflowTimeout(0.3), pytest.raises(RunCancelledError):
                kick_off(crew_of(), run_id)
        else:
            caller = Called(lambda: kick_off(crew_of(), run_id))
            held.wait_until_held()
            control.cancel(run_id, by="ann", reason="Enough")
            with pytest.raises(RunCancelledError):
                caller.result()
        until(lambda: any("crewai-dbos runs resume" in each for each in lines.of("crewai_dbos")))
        held.release()
    assert lines.of("dbos") == []
    (told,) = lines.of("crewai_dbos")
    assert told.startswith(f"Run {run_id!r} was cancelled")
    assert f"crewai-dbos runs resume {run_id}" in told
    assert ("by ann: Enough" in told) == (how == "cancelled")
    assert all(each.exc_info is None for each in lines.records)


def working(held: Hang) -> Callable[[Request], Reply | Hang]:
    return lambda request: held if request.tool_results else tool_calls(ToolCall("look_up", {}))


@tool
def look_up() -> str:
    """Look it up."""
    return "found"


def test_a_run_that_goes_on_is_one_line(serve: Serve, lines: Lines, database_url: str) -> None:
    """Also under an id that is kicked off again, of which DBOS would warn."""
    held = hang(text("Late."))
    serve(working(held))
    crew, run_id = crew_of(look_up), unique("run")
    with launched(database_url, **{**LOUD, "log_level": "CRITICAL"}):
        with SetWorkflowID(run_id):
            crew.start({"topic": "otters"})
        held.wait_until_held()
    del lines.records[:]
    with launched(database_url, **LOUD):
        caller = Called(lambda: kickoff(crew, run_id))
        held.wait_until_held(2)
        # What is left of it in this process, as DBOS was destroyed under it, ends first.
        until(lambda: any("another execution" in each for each in lines.of("crewai_dbos")))
        held.release()
        assert caller.result().raw == "Late."
        assert kickoff(crew, run_id).raw == "Late."
    assert lines.of("dbos") == []
    warned = [each for each in lines.records if each.levelno >= logging.WARNING]
    (told,) = [each.getMessage() for each in warned]
    assert told == f"Run {run_id} goes on: 2 calls from the record."


def test_a_program_that_is_no_worker_does_not_say_that_runs_begin_and_end(
    serve: Serve, lines: Lines, database_url: str
) -> None:
    serve(lambda _: text("done"))
    with launched(database_url, **LOUD):
        kickoff(crew_of(), unique("run"))
    assert lines.of("crewai_dbos") == []


def test_one_that_was_asked_for_is_no_warning(
    serve: Serve, lines: Lines, database_url: str
) -> None:
    held = hang(text("Late."))
    serve(working(held))
    crew = crew_of(look_up)
    with (
        launched(database_url, **LOUD),
        Control(database_url) as control,
    ):
        run = crew.start({"topic": "otters"})
        held.wait_until_held()
        control.cancel(run.workflow_id)
        until(lambda: status(run.workflow_id) == "CANCELLED")
        control.resume(run.workflow_id)
        held.wait_until_held(2)
        held.release()
        run.get_result()
    going_on = [each for each in lines.records if "goes on: 2 calls" in each.getMessage()]
    assert [each.levelname for each in going_on] == ["INFO"]


def test_a_batch_that_is_cancelled(serve: Serve, lines: Lines, database_url: str) -> None:
    held = hang(text("Late."))
    serve(lambda request: held)
    crew, batch_id = crew_of(), unique("batch")

    def batch() -> Any:
        with SetWorkflowID(batch_id):
            return crew.kickoff_for_each([{"topic": "ants"}, {"topic": "bees"}], concurrency=1)

    with launched(database_url, **LOUD):
        caller = Called(batch)
        held.wait_until_held()
        DBOS.cancel_workflow(batch_id)
        with pytest.raises(RunCancelledError):
            caller.result()
        until(lambda: len(lines.of("crewai_dbos")) == 2)
        held.release()
    assert lines.of("dbos") == []
    assert sorted(each.split()[1] for each in lines.of("crewai_dbos")) == [
        f"'{batch_id}'",
        f"'{batch_id}/1'",
    ]
