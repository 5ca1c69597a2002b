"""Which lines of a worker's log are of a database that is away, and which are not."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from dbos import DBOS
from dbos._sys_db import SystemDatabase, db_retry

from crewai_dbos import _clock
from crewai_dbos._health import log
from crewai_dbos._health.log import WorkerLog


@pytest.fixture
def worker_log(caplog: pytest.LogCaptureFixture) -> Iterator[WorkerLog]:
    found = WorkerLog()
    found.begin()
    of_dbos = logging.getLogger("dbos")
    before = of_dbos.propagate, of_dbos.level
    of_dbos.propagate = True
    of_dbos.setLevel(logging.WARNING)
    yield found
    of_dbos.propagate, of_dbos.level = before
    found.end()


class Done(Exception):
    """The database answers."""


def lost() -> psycopg.OperationalError:
    return psycopg.OperationalError("server closed the connection unexpectedly\n\tIt was killed.")


def engine(failures: int) -> sa.Engine:
    """Of a database that is away for so many calls."""
    left = [lost() for _ in range(failures)]

    def connect() -> Any:
        raise left.pop() if left else Done

    return sa.create_engine("postgresql+psycopg://", creator=connect)


def tries_again(times: int = 1) -> None:
    """A call of DBOS's."""
    with pytest.raises(Done):
        db_retry(initial_backoff=0.0)(engine(times).connect)()


def of_the_users() -> None:
    """A step of the user's, with a database of the user's."""
    try:
        raise lost()
    except psycopg.OperationalError:
        DBOS.logger.warning("Of something else.")


def test_one_lost_connection_is_no_outage(
    worker_log: WorkerLog, caplog: pytest.LogCaptureFixture
) -> None:
    tries_again()
    worker_log.beaten(_clock.seconds())
    tries_again()
    assert caplog.messages == []


def test_what_lasts_is_said_once(
    worker_log: WorkerLog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_LASTS", 0.0)
    monkeypatch.setattr(log, "_QUIET", 0.0)
    tries_again(3)
    worker_log.beaten(_clock.seconds())
    (away, back) = caplog.messages
    assert away.startswith("The database does not answer (server closed the connection unexpect")
    assert "It was killed" not in away
    assert back == "The database answers again, after 0 s."


def test_a_line_in_a_handler_of_the_users_is_left_alone(
    worker_log: WorkerLog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_LASTS", 0.0)
    of_the_users()
    try:
        raise lost()
    except psycopg.OperationalError:
        of_the_users()
    assert caplog.messages == ["Of something else."] * 2


def test_a_call_of_the_users_that_dbos_tells_of_is_left_alone(
    worker_log: WorkerLog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_LASTS", 0.0)

    def step() -> None:
        raise lost()

    of_dbos = db_retry.__code__.co_filename
    try:
        step()
    except psycopg.OperationalError as error:
        caught = (type(error), error, error.__traceback__)
        line = (logging.WARNING, of_dbos, 1, "Step failed", (), caught)
        DBOS.logger.handle(DBOS.logger.makeRecord("dbos", *line))
    assert caplog.messages == ["Step failed"]


def test_a_line_of_dbos_with_a_traceback_is_of_the_outage(
    worker_log: WorkerLog, caplog: pytest.LogCaptureFixture
) -> None:
    its = SimpleNamespace(poll_limiter=nullcontext(), engine=engine(1))
    SystemDatabase.recv_check(its, "run", None, threading.Event())  # type: ignore[arg-type]
    assert caplog.messages == []
