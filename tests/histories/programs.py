"""The definitions whose runs are kept, and how each run is begun.

A history names its program: what is recorded here under a name must go on to work under it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from crewai import LLM, Crew, Task
from crewai.flow.flow import Flow, listen, router, start
from dbos import DBOS
from pydantic import BaseModel

import crewai_dbos
from crash import models
from crash.application import AGENTS, undecorated
from crewai_dbos import DBOSCrew, DBOSFlow
from crewai_dbos.testing import Reply, Request, error, report_effect, text

ASK = "Send letters to Ann and Bob."


def execute(name: str) -> Any:
    return AGENTS[name].execute_task(Task(description=ASK, expected_output="The receipts."))


@DBOS.workflow(name="histories.office")
def office() -> list[Any]:
    """A workflow of the user's own: steps beside two parts, of which the first fails."""
    return [stamp("before"), attempt(), stamp("between"), AGENTS["native"].kickoff(ASK).raw]


def attempt() -> str:
    try:
        return str(AGENTS["native"].kickoff("Fail.").raw)
    except Exception as failure:
        return type(failure).__name__


@DBOS.step(name="histories.stamp")
def stamp(what: str) -> str:
    return f"stamped {what}"


def fails_if_told_to(request: Request) -> Reply:
    if "Fail." in request.last_user_text:
        return error(401)
    return models.ann_and_bob(request)


class Receipts(BaseModel):
    text: str


def note(output: Any) -> None:
    report_effect("noted", of=output.raw)


def is_a_receipt(output):  # type: ignore[no-untyped-def]  # crewAI reads no annotation in quotes
    return "receipt" in output.raw, output.raw


def postmen() -> Crew:
    """Two tasks, of which the second is given the first one's output."""
    postman = undecorated()
    send = Task(name="send", description=ASK, expected_output="The receipts.", agent=postman)
    check = Task(
        name="check",
        description="Send them again to {who}.",
        expected_output="The receipts.",
        agent=postman,
        guardrail=is_a_receipt,
        callback=note,
    )
    return Crew(agents=[postman], tasks=[send, check])


POSTMEN = DBOSCrew(crew_name="histories.postmen", orig_crew=postmen)


class Sent(BaseModel):
    at: str = ""
    rounds: int = 0
    receipts: list[Receipts] = []


def weigh(receipts: list[str]) -> int:
    report_effect("weighed")
    return sum(map(len, receipts))


class Rounds(Flow[Sent]):
    """A loop around a crew, with a clock, a step and a request of its own."""

    @start("again")
    def deliver(self) -> None:
        self.state.at = self.state.at or str(crewai_dbos.now())
        text = postmen().kickoff(inputs={"who": "Ann"}).raw
        self.state.receipts.append(Receipts(text=text))
        self.state.rounds += 1

    @router(deliver)
    def enough(self) -> str:
        return "again" if self.state.rounds < 2 else "done"

    @listen("done")
    def close(self) -> str:
        weight = crewai_dbos.step(weigh, [each.text for each in self.state.receipts])
        return f"{weight} {LLM('gpt-4o-mini').call('Which letters were sent?')} {self.state.at}"


ROUNDS = DBOSFlow(flow_name="histories.rounds", orig_flow=Rounds)


def unless_asked(request: Request) -> Reply:
    """A request without tools is one of a method of its own."""
    return models.ann_and_bob(request) if request.tools else text("All.")


PROGRAMS: dict[str, tuple[Callable[[], Any], models.Script]] = {
    "react": (lambda: execute("react"), models.react),
    "native": (lambda: execute("native"), models.ann_and_bob),
    "native-async": (lambda: asyncio.run(AGENTS["native"].akickoff(ASK)), models.ann_and_bob),
    "parallel": (
        lambda: execute("native"),
        models.letters(["Ann", "Bob", "Ann"], ["Bob", "Eve"]),
    ),
    "office": (office, fails_if_told_to),
    "crew": (lambda: POSTMEN.kickoff(inputs={"who": "Ann"}), models.ann_and_bob),
    "flow": (ROUNDS.kickoff, unless_asked),
}
