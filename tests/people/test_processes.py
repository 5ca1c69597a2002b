"""Runs that wait while processes and databases come and go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crewai_dbos.control import Control, Reply, Request
from crewai_dbos.errors import RequestExpired
from crewai_dbos.testing import EffectLog
from crewai_dbos.testing.crash._fork_server import fork_server
from crewai_dbos.testing.crash._jobs import Job
from crewai_dbos.testing.crash._processes import Process
from crewai_dbos.testing.effects import EFFECTS
from people.conftest import until
from support.databases import sqlite_here
from support.entries import how_many
from support.postgres import Postgres

pytestmark = pytest.mark.crash


class Lab:
    """One database, and the processes that use it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.effects = EffectLog(folder / "effects")
        self._folder = folder
        self._processes: list[Process] = []

    def process(self, job: str, **order: Any) -> Process:
        log = self._folder / f"{len(self._processes)}.log"
        order = {"database_url": self.url, "ids": ["run"], **order}
        environment = {EFFECTS: str(self.effects.path)}
        process = fork_server("people.jobs").start(
            Job(f"people.jobs:{job}", order, log, environment)
        )
        self._processes.append(process)
        return process

    def parked(self, flow: str = "question", **order: Any) -> Process:
        """A process whose run is left to its row."""
        process = self.process("begin", flow=flow, **{"status": "DELAYED", **order})
        process.hear("there")
        return process

    def killed_when_parked(self, flow: str = "question", **order: Any) -> None:
        process = self.parked(flow, **order)
        process.kill()
        process.wait()

    def finished(self, **order: Any) -> Any:
        process = self.process("finish", **order)
        end = process.wait()
        assert end.code == 0, process.output()
        return end.result

    def delivered(self) -> list[str]:
        return [effect.fields["what"] for effect in self.effects.read()]

    def end(self) -> None:
        for process in self._processes:
            process.end()


@pytest.fixture
def lab(database_url: str, tmp_path: Path) -> Iterator[Lab]:
    found = Lab(database_url, tmp_path)
    yield found
    found.end()


def one(control: Control) -> Request:
    (request,) = until(control.requests)
    return request


def test_an_answer_while_no_process_lives(lab: Lab) -> None:
    lab.killed_when_parked()
    with Control(lab.url) as control:
        control.answer(one(control).request_id, Reply("yes"), by="ann")
    assert lab.finished() == ["delivered yes"]
    assert lab.delivered() == ["yes"]


@sqlite_here("database_url")
def test_a_deadline_that_passes_while_no_process_lives(lab: Lab) -> None:
    lab.killed_when_parked("hurried")
    with Control(lab.url) as control:
        (request,) = control.requests(only_open=False)
        until(lambda: control.request(request.request_id).state == "expired")
        with pytest.raises(RequestExpired, match="could be answered until"):
            control.answer(request.request_id, Reply("late"))
    assert lab.finished() == ["delivered nobody"]


@sqlite_here("database_url")
def test_a_deploy(lab: Lab) -> None:
    lab.killed_when_parked(version="v1")
    # On SQLite DBOS may count whole seconds, and tells by them which version is the newer one.
    parked_in = int(time.time())
    until(lambda: int(time.time()) > parked_in)
    with Control(lab.url) as control:
        control.answer(one(control).request_id, Reply("yes"))
    assert lab.finished(version="v2") == ["delivered yes"]


@sqlite_here("database_url")
def test_a_worker_without_the_definition(lab: Lab) -> None:
    lab.killed_when_parked()
    with Control(lab.url) as control:
        control.answer(one(control).request_id, Reply("yes"))
    lacking = lab.process("lack")
    end = lacking.wait()
    assert "no DBOSFlow named 'question' is defined" in end.result
    assert lab.finished() == ["delivered yes"]
    assert lab.delivered() == ["yes"]


@sqlite_here("database_url")
def test_a_workflow_of_the_user_s_own(lab: Lab) -> None:
    begun = lab.process("begin_own")
    begun.hear("there")
    with Control(lab.url) as control:
        request = one(control)
        begun.kill()
        begun.wait()
        finishing = lab.process("finish")
        control.answer(request.request_id, Reply("yes"))
        assert finishing.wait().result == ["delivered yes"]
        assert [each.request_id for each in control.requests(only_open=False)] == [
            request.request_id
        ]


@pytest.mark.some_entries
def test_a_database_that_is_started_again_while_many_wait(
    postgres: Postgres, tmp_path: Path
) -> None:
    """In memory and as rows: nobody is asked twice, and every answer counts."""
    lab = Lab(postgres.create_database(), tmp_path)
    each = how_many(3, 15)
    parked = [f"parked-{number}" for number in range(each)]
    waiting = [f"waiting-{number}" for number in range(each)]
    try:
        every = [*parked, *waiting]
        first = lab.parked("question", ids=parked, until=every)
        second = lab.parked("patient", ids=waiting, until=every, status="PENDING", version="v2")
        with Control(lab.url) as control:
            before = until(lambda: len(found := control.requests()) == 2 * each and found)
        postgres.stop()
        postgres.start()
        with Control(lab.url) as control:
            assert {each.request_id for each in control.requests()} == {
                each.request_id for each in before
            }
            for request in before:
                control.answer(request.request_id, Reply(request.run_id))
        assert second.wait().code == 0
        assert first.wait().code == 0
    finally:
        lab.end()
    assert sorted(lab.delivered()) == sorted(every)
