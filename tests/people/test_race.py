"""Answers at any instant, by several people at once: none is lost, no second one is used."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest
from crewai.flow.flow import Flow, listen, start
from dbos import DBOS, SetWorkflowID

import crewai_dbos
from crewai_dbos import DBOSFlow, People, ask
from crewai_dbos.control import Control, Reply
from crewai_dbos.errors import AlreadyAnswered, RequestExpired
from people.conftest import until
from support.databases import some_here
from support.entries import how_many
from support.names import unique

PEOPLE = 3

effects: list[tuple[str, int]] = []


def effect(run_id: str, number: int) -> None:
    effects.append((run_id, number))


class Twice(Flow[dict[str, Any]]):
    """Asks twice, and does something after each answer."""

    @start()
    def first(self) -> str:
        said = ask("First?")
        crewai_dbos.step(effect, DBOS.workflow_id or "", 1)
        return said

    @listen(first)
    def second(self, before: str) -> str:
        said = ask("Second?")
        crewai_dbos.step(effect, DBOS.workflow_id or "", 2)
        return f"{before} {said}"


@pytest.mark.some_entries
@pytest.mark.parametrize("seed", some_here([1, 2], here=[1]))
def test_everybody_answers_everything(seed: int, url: str) -> None:
    chance = random.Random(seed)
    runs = how_many(5, 12)
    flow = DBOSFlow(
        flow_name=unique("race"), orig_flow=Twice, people=People(linger=0.02, audience="race")
    )
    won: dict[str, str] = {}
    over = threading.Event()

    def answer(name: str) -> None:
        with Control(url) as control:
            while not over.is_set():
                for request in control.requests(audience="race"):
                    time.sleep(chance.random() * 0.1)
                    try:
                        control.answer(request.request_id, Reply(name), by=name)
                    except (AlreadyAnswered, RequestExpired):
                        continue
                    assert request.request_id not in won
                    won[request.request_id] = name
                over.wait(0.02)

    threads = [threading.Thread(target=answer, args=(f"p{n}",)) for n in range(PEOPLE)]
    for thread in threads:
        thread.start()
    effects.clear()
    ids = [unique("race") for _ in range(runs)]
    try:
        for run_id in ids:
            with SetWorkflowID(run_id):
                flow.start()
        until(lambda: len(DBOS.list_workflows(workflow_ids=ids, status="SUCCESS")) == runs, 120)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    with Control(url) as control:
        for run_id in ids:
            requests = control.requests(run_id=run_id, only_open=False)
            by_message = {request.question.message: request for request in requests}
            winners = [won[by_message[each].request_id] for each in ("First?", "Second?")]
            assert flow.retrieve(run_id).get_result() == " ".join(winners)
            assert {request.state for request in requests} == {"used"}
    assert sorted(effects) == sorted((run_id, number) for run_id in ids for number in (1, 2))
