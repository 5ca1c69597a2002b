"""Which lines of a worker's log are of a database that is away, and which are not."""

from __future__ import annotations

import logging
import random
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from dbos import DBOS
from dbos._sys_db import SystemDatabase, db_retry

from crewai_dbos import Worker, _clock, _tracebacks
from crewai_dbos._fleet import membership
from crewai_dbos._fleet.bounded import within
from crewai_dbos._fleet.membership import BEATS
from crewai_dbos._health import outage
from crewai_dbos._health.log import WorkerLog
from crewai_dbos._health.outage import Outage, Told
from crewai_dbos._health.shared import Shared
from fleet.test_worker import construct
from people.conftest import until
from support.databases import sqlite_here


@pytest.fixture
def worker_log(caplog: pytest.LogCaptureFixture) -> Iterator[WorkerLog]:
    found = WorkerLog(lambda: None)
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
    monkeypatch.setattr(outage, "LASTS", 0.0)
    monkeypatch.setattr(outage, "QUIET", 0.0)
    tries_again(3)
    worker_log.beaten(_clock.seconds())
    (away, back) = caplog.messages
    assert away.startswith("The database does not answer (server closed the connection unexpect")
    assert "It was killed" not in away
    assert back == "The database answers again, after 0 s."


def test_a_line_in_a_handler_of_the_users_is_left_alone(
    worker_log: WorkerLog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "LASTS", 0.0)
    of_the_users()
    try:
        raise lost()
    except psycopg.OperationalError:
        of_the_users()
    assert caplog.messages == ["Of something else."] * 2


def test_a_call_of_the_users_that_dbos_tells_of_is_left_alone(
    worker_log: WorkerLog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "LASTS", 0.0)

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


class Times:
    """What is told at which second, when a beat follows a failure within a second."""

    def __init__(self, lease: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self._outage = Outage()
        self._now = 0.0
        self._pause = lease / BEATS
        self.told: list[tuple[int, Told, bool]] = []
        monkeypatch.setattr(_clock, "seconds", lambda: self._now)

    def fail(self, moments: list[float], until: float, waited: float = 0.0) -> None:
        """Calls fail then; beats are answered until then."""
        left, beat = sorted(moments), 0.0
        while left or beat <= until:
            if left and left[0] <= beat:
                self._now = left.pop(0)
                if (found := self._outage.failed(waited)) is not None:
                    self.told.append((round(self._now), found, False))
                beat = min(beat, self._now + 1.0)
            else:
                self._now = beat
                if (over := self._outage.answered(beat)) is not None:
                    self.told.append((round(self._now), over[0], True))
                beat += self._pause


def of_stuck_calls(count: int, until: float, chance: random.Random) -> list[float]:
    """When calls fail that DBOS tries again, each less and less often."""
    moments = []
    for _ in range(count):
        now, pause = 100 + 5 * chance.random(), 1.0
        while now < until:
            moments.append(now)
            now += pause * (0.5 + chance.random())
            pause = min(2 * pause, 60.0)
    return moments


@pytest.mark.parametrize("count", [1, 5, 50])
def test_calls_that_go_on_failing_beside_beats_that_are_answered(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(20):
        times = Times(30.0, monkeypatch)
        times.fail(of_stuck_calls(count, 3600.0, random.Random(seed)), 4000.0)
        (at, some, _), (over, _, is_over) = times.told
        assert (some, is_over) == (Told.SOME, True), times.told
        assert at < 130
        assert over > 3600


def test_two_lost_connections_between_beats_that_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(300.0, monkeypatch)
    times.fail([1.0, 4.0], 100.0)
    assert times.told == []


def test_one_call_that_is_slow_beside_beats_that_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = Times(300.0, monkeypatch)
    times.fail([200.0], 300.0, waited=150.0)
    assert times.told == []


def test_a_database_that_hangs_is_away_since_the_call_was_begun(
    worker_log: WorkerLog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "LASTS", 0.01)
    frozen = threading.Event()
    Shared(partial(within, 0.02, frozen.wait), "count the runs").value()
    frozen.set()
    (away,) = caplog.messages
    assert away.startswith("The database does not answer (no answer in 0.02 s).")


@sqlite_here("database_url")
def test_a_lost_connection_brings_a_beat_at_once(database_url: str) -> None:
    construct(database_url)
    with Worker(lease=300):
        member = membership.member()
        assert member is not None
        begun = _clock.seconds()
        logging.getLogger("dbos").setLevel(logging.WARNING)
        tries_again()
        until(lambda: _clock.seconds() - member.unbeaten_for() > begun, seconds=10)


class Watched(ValueError):
    """Notes how many frames it has when it is told."""

    def __init__(self, seen: list[int]) -> None:
        super().__init__(seen)
        self._seen = seen

    def __str__(self) -> str:
        self._seen.append(len(traceback.extract_tb(self.__traceback__)))
        return "it is wrong"


def of_crewai(error: Exception) -> None:
    """Raises it thirty calls deep in crewAI."""
    of_it = {"__name__": "crewai.deep", "error": error}
    exec("def deep(left):\n    if left: deep(left - 1)\n    raise error", of_it)
    of_it["deep"](30)  # type: ignore[operator]


def test_an_error_whose_traceback_is_told_in_short_stays_as_it_is() -> None:
    seen: list[int] = []
    first, second, third = (Watched(seen) for _ in range(3))
    try:
        try:
            try:
                of_crewai(first)
            except Watched as error:
                third.__cause__ = error
                of_crewai(second)
        finally:
            of_crewai(third)
    except Watched as error:
        said = _tracebacks.told(error)
    assert said.count("it is wrong") == 2, "a cause, or else what was handled then"
    assert said.count("in deep") < 15
    assert min(seen) >= 32
    assert third.__context__ is second
    odd = ValueError("of something else")
    odd.exceptions = None  # type: ignore[attr-defined]
    assert _tracebacks.told(odd) == "ValueError: of something else"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no groups")
def test_errors_of_a_group_are_told_in_short() -> None:
    error = Watched([])
    try:
        of_crewai(error)
    except Watched:
        group = ExceptionGroup("two", [error, KeyError("key")])  # noqa: F821
    said = _tracebacks.told(group)
    assert "it is wrong" in said
    assert said.count("in deep") < 8
