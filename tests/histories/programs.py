"""The definitions whose runs are kept, and how each run is begun.

A history names its program: what is recorded here under a name must go on to work under it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from crewai import Task
from dbos import DBOS

from crash import models
from crash.application import AGENTS
from crewai_dbos.testing import Reply, Request, error

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


PROGRAMS: dict[str, tuple[Callable[[], Any], models.Script]] = {
    "react": (lambda: execute("react"), models.react),
    "native": (lambda: execute("native"), models.ann_and_bob),
    "native-async": (lambda: asyncio.run(AGENTS["native"].akickoff(ASK)), models.ann_and_bob),
    "parallel": (
        lambda: execute("native"),
        models.letters(["Ann", "Bob", "Ann"], ["Bob", "Eve"]),
    ),
    "office": (office, fails_if_told_to),
}
