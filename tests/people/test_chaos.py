"""People who answer at any time, and processes that are killed at any time, all at once."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crewai_dbos.control import Approve, Control, Feedback, Reply, Request
from crewai_dbos.errors import AlreadyAnswered, RequestExpired
from people.test_processes import Lab

pytestmark = [pytest.mark.crash, pytest.mark.every_moment]

RUNS = 20
PEOPLE = 3
SECONDS = 120


def said(request: Request, name: str) -> Reply | Feedback | Approve:
    if request.kind == "feedback":
        return Feedback(name)
    return Reply(f"{name}:{request.question.message}")


@contextlib.contextmanager
def people(database_url: str) -> Iterator[dict[str, str]]:
    """In the block some answer whatever they see; who was first, by request."""
    first: dict[str, str] = {}
    over = threading.Event()

    def answer(name: str) -> None:
        chance = random.Random(name)
        with Control(database_url) as control:
            while not over.wait(0.05):
                for request in control.requests():
                    if over.wait(chance.random() * 0.2):
                        return
                    try:
                        control.answer(request.request_id, said(request, name), by=name)
                    except (AlreadyAnswered, RequestExpired):
                        continue
                    assert first.setdefault(request.request_id, name) == name

    threads = [threading.Thread(target=answer, args=(f"p{n}",)) for n in range(PEOPLE)]
    for thread in threads:
        thread.start()
    try:
        yield first
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_every_run_ends_and_does_all_once(database_url: str, tmp_path: Path) -> None:
    lab = Lab(database_url, tmp_path)
    chance = random.Random(7)
    ids = [f"run-{number}" for number in range(RUNS)]
    end, deaths = time.monotonic() + SECONDS, 0
    try:
        process = lab.process("begin_all", flow="intake", ids=ids)
        process.hear("there")
        with people(database_url) as first:
            while time.monotonic() < end:
                time.sleep(chance.random() * 6)  # it may die at any time
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                if process.wait().code == 0:
                    break
                deaths += 1
                process = lab.process("finish", ids=ids)
            assert lab.finished(ids=ids)
    finally:
        lab.end()
    done = [effect for effect in lab.effects.read() if effect.kind == "deliver"]
    with Control(database_url) as control:
        requests = control.requests(only_open=False)
    assert {request.state for request in requests} <= {"used", "withdrawn"}
    assert {request.answered_by for request in requests if request.state == "used"} <= set(
        first.values()
    )
    for request in requests:
        if request.state == "used":
            assert first[request.request_id] == request.answered_by
    # What a process was doing when it died is done again, and nothing else.
    assert RUNS <= len(done) <= RUNS + deaths
