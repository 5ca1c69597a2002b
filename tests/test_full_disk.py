"""The database can't be written for a while, in the middle of a run."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from crewai.tools import tool
from dbos import SetWorkflowID
from sqlalchemy.exc import OperationalError

from crewai_dbos._dbos_seam import unwritable
from crewai_dbos._dbos_seam.database import launched_database
from crewai_dbos.errors import NotLaunchedError
from crewai_dbos.testing import Reply, Request, ToolCall, text, tool_calls
from people.conftest import Called, until
from support.controlling import crew_of
from support.databases import some_here
from support.launching import launched
from support.names import unique
from support.serving import Serve, serving

LONG = "x" * 400_000
CALLS: list[str] = []


@pytest.fixture(autouse=True)
def nothing_was_said() -> None:
    unwritable._last.clear()
    CALLS.clear()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    yield from serving(monkeypatch, lambda _: text("done"))


@tool
def look_up() -> str:
    """Look it up."""
    CALLS.append("look_up")
    return LONG


@contextmanager
def can_not_write(pragma: str, again: str) -> Iterator[None]:
    """Transactions that begin in the block can't."""

    def begin(connection: sa.Connection) -> None:
        execute(connection, pragma)

    def end(connection: sa.Connection) -> None:
        with suppress(psycopg.errors.InFailedSqlTransaction):  # in which nothing is left to undo
            execute(connection, again)

    engine = launched_database().engine
    sa.event.listen(engine, "begin", begin)
    sa.event.listen(engine, "commit", end)
    sa.event.listen(engine, "rollback", end)
    try:
        yield
    finally:  # those that have begun end as before
        sa.event.remove(engine, "begin", begin)


def execute(connection: sa.Connection, statement: str) -> None:
    opened = connection.connection.dbapi_connection
    assert opened is not None
    opened.cursor().execute(statement)


FULL = ("PRAGMA max_page_count=1", "PRAGMA max_page_count=1073741823")  # 1: as many as there are
READ_ONLY = ("PRAGMA query_only=ON", "PRAGMA query_only=OFF")
REPLICA = (  # one that begins with BEGIN, and statements that are one each
    "SET transaction_read_only = on; SET default_transaction_read_only = on",
    "SET default_transaction_read_only = off",
)


HERE = [
    (FULL, "dbos.sqlite is full, or its quota", "sqlite", False),
    (READ_ONLY, "dbos.sqlite is read-only", "sqlite", True),
    (REPLICA, "is read-only, as a replica is", "postgres", False),
]
EVERY = [(*case, is_async) for *case, _ in HERE for is_async in (False, True)]


@pytest.mark.parametrize(
    ("pragmas", "told", "database_url", "is_async"),
    some_here(EVERY, HERE),
    indirect=["database_url"],
)
def test_a_run_waits_and_goes_on(
    pragmas: tuple[str, str],
    told: str,
    is_async: bool,
    database_url: str,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
) -> None:
    crew, blocked = crew_of(look_up), ExitStack()

    def script(request: Request) -> Reply:
        if request.tool_results:
            return text("Well.")
        blocked.enter_context(can_not_write(*pragmas))
        return tool_calls(ToolCall("look_up", {}))

    def kickoff() -> Any:
        if is_async:
            return asyncio.run(crew.akickoff({"topic": "otters"}))
        return crew.kickoff({"topic": "otters"})

    def lines() -> list[str]:
        return [r.getMessage() for r in caplog.records if told in r.getMessage()]

    caplog.set_level(logging.ERROR, "crewai_dbos")
    with launched(database_url):
        server = serve(script)
        run = Called(kickoff)
        until(lines)
        blocked.close()
        assert run.result().raw == "Well."
    assert len(lines()) == 1
    assert len(server.requests) == 2
    assert CALLS == ["look_up"]


def test_a_run_that_waits_is_left_when_dbos_is_destroyed(tmp_path: Path, serve: Serve) -> None:
    blocked = ExitStack()

    def script(request: Request) -> Reply:
        if len(server.requests) == 1:
            blocked.enter_context(can_not_write(*FULL))
        return text(LONG)

    url, crew = f"sqlite:///{tmp_path}/dbos.sqlite", crew_of()
    with launched(url):
        server = serve(script)
        run = crew.start({"topic": "otters"})
        until(lambda: unwritable._last)
        wait = Called(run.get_result)
    with pytest.raises(NotLaunchedError):
        wait.result()
    blocked.close()
    with launched(url):
        assert crew.retrieve(run.workflow_id).get_result().raw == LONG
    assert len(server.requests) == 2, "the call whose record was not written, once more"


def status_in(file: Path, run_id: str) -> str:
    """As the file says: DBOS may have connections to an empty one that stood there meanwhile."""
    query = "SELECT status FROM workflow_status WHERE workflow_uuid = ?"
    with closing(sqlite3.connect(file)) as opened:
        [status] = opened.execute(query, (run_id,)).fetchone()
    return str(status)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_file_that_is_taken_away(is_async: bool, tmp_path: Path, serve: Serve) -> None:
    """SQLite calls that read-only, too. Nobody waits for it, and the run is kept."""
    path, crew, run_id = tmp_path / "dbos.sqlite", crew_of(), unique("run")

    def script(_: Request) -> Reply:
        if len(server.requests) == 1:
            path.rename(tmp_path / "elsewhere")
        return text("done")

    def kickoff() -> Any:
        with SetWorkflowID(run_id):
            if is_async:
                return asyncio.run(crew.akickoff({"topic": "otters"}))
            return crew.kickoff({"topic": "otters"})

    server = serve(script)
    with launched(f"sqlite:///{path}"):
        with pytest.raises(OperationalError):
            kickoff()
        (tmp_path / "elsewhere").rename(path)
        assert status_in(path, run_id) == "PENDING"
    with launched(f"sqlite:///{path}"):
        assert crew.retrieve(run_id).get_result().raw == "done"
    assert len(server.requests) == 2
