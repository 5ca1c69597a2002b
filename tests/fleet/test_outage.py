"""Which lines of a worker's log are of a database that is away, and which are not."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import psycopg
import pytest

from crewai_dbos import _clock
from crewai_dbos._health import log
from crewai_dbos._health.log import WorkerLog

logger = logging.getLogger("crewai_dbos")


@pytest.fixture
def worker_log() -> Iterator[WorkerLog]:
    found = WorkerLog()
    found.begin()
    yield found
    found.end()


def lost() -> None:
    raise psycopg.OperationalError("server closed the connection unexpectedly\n\tIt was killed.")


def tries_again() -> None:
    try:
        lost()
    except psycopg.OperationalError as error:
        logger.warning("Tried again: %s", error)


def warn() -> None:
    logger.warning("Of something else.")


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
    for _ in range(3):
        tries_again()
    worker_log.beaten(_clock.seconds())
    (away, back) = caplog.messages
    assert away.startswith("The database does not answer (server closed the connection unexpect")
    assert "It was killed" not in away
    assert back == "The database answers again, after 0 s."


def test_a_line_in_a_handler_of_the_users_is_left_alone(
    worker_log: WorkerLog, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        lost()  # of a database of the user's
    except psycopg.OperationalError:
        warn()
    assert caplog.messages == ["Of something else."]
