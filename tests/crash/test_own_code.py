"""Child workflows, transactions, steps inside a plain tool and handler steps, killed at each row.

What DBOS recorded of the user's own code is not done again, a transaction commits once, and each
event is handled once.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOSClient

from crash.names import RUN
from crash.processes import ForkServer, Job, fork_server
from crewai_dbos.testing import EffectLog, ModelServer, Reply, Request, ToolCall, text, tool_calls

TURNS = [
    [ToolCall("order", {"part": "bolt"})],
    [ToolCall("pay", {"amount": 5})],
    [ToolCall("post", {"to": "Ann"})],
    [
        ToolCall("order", {"part": "nut"}),
        ToolCall("pay", {"amount": 7}),
        ToolCall("post", {"to": "Bob"}),
    ],
]


def script(request: Request) -> Reply:
    if request.assistant_turns < len(TURNS):
        return tool_calls(*TURNS[request.assistant_turns])
    return text(" ".join(f"{call}={result}" for call, result in request.tool_results))


@pytest.fixture(scope="module")
def office() -> Iterator[ForkServer]:
    """A process that has imported the office. Its workflows are part of the version of a program,
    so it can't be the one that the other tests fork."""
    with fork_server("crash.office", "openai.resources") as started:
        yield started


class Run:
    """One run in its own database, killed at `moment` of the step row `name` if one is given."""

    def __init__(
        self, server: ForkServer, database: Any, folder: Path, name: str = "", moment: str = ""
    ) -> None:
        label = f"{name} {moment}".replace("/", "-")[-80:]
        self.effects = EffectLog(folder / f"{label}.effects")
        self.log = folder / f"{label}.log"
        fault = {"entry": name, "moment": moment} if name else {}
        with database() as url, ModelServer(script) as model:
            environment = {"MODEL_URL": model.base_url, "EFFECTS": str(self.effects.path)}

            def job(function: str, fault: dict[str, str]) -> Job:
                order = {"database_url": url, "fault": fault}
                return Job(f"crash.office:{function}", order, self.log, environment)

            self.first = server.start(job("start", fault)).wait()
            self.recorded = recorded(url)
            self.done = Counter(effect.kind for effect in self.effects.read())
            self.last = self.first
            if self.first.killed:
                self.last = server.start(job("recover", {})).wait()
            self.requests = len(model.requests)
            self.finally_recorded = recorded(url)

    @property
    def all_done(self) -> Counter[str]:
        return Counter(effect.kind for effect in self.effects.read())

    @property
    def ledger(self) -> list[int]:
        with sqlite3.connect(f"{self.effects.path}.ledger") as connection:
            return [row[0] for row in connection.execute("SELECT amount FROM ledger ORDER BY 1")]


def recorded(url: str) -> Counter[str]:
    """The step rows of the run and its children, by name."""
    client = DBOSClient(system_database_url=url)
    try:
        ids = [RUN, *(w.workflow_id for w in client.list_workflows(parent_workflow_id=RUN))]
        return Counter(
            step["function_name"] for run in ids for step in client.list_workflow_steps(run)
        )
    finally:
        client.destroy()


def step_of(effect: str) -> str:
    return "on_tool" if effect.startswith("event ") else effect.partition(" ")[0]


def test_every_row(office: ForkServer, database: Any, tmp_path: Path) -> None:
    undisturbed = Run(office, database, tmp_path)
    assert undisturbed.first.code == 0, undisturbed.log.read_text()
    assert undisturbed.ledger == [5, 7]
    expected = undisturbed.last.result
    # DBOS writes these two in transactions that `faults` does not watch.
    names = [n for n in undisturbed.recorded if n != "order" and not n.startswith("DBOS.")]
    cases = [(name, moment) for name in names for moment in ("done", "recorded")]

    def problems(name: str, moment: str) -> str:
        run = Run(office, database, tmp_path, name, moment)
        wrong = []
        if not run.first.killed:
            wrong.append("was not killed")
        if run.last.result != expected:
            wrong.append(f"the answer is {run.last.result!r}")
        if run.ledger != [5, 7]:
            wrong.append(f"the ledger is {run.ledger}")
        again = run.all_done - undisturbed.all_done
        in_flight = Counter(map(step_of, run.done.elements())) - run.recorded
        if Counter(map(step_of, again.elements())) - in_flight:
            wrong.append(f"done again: {dict(again)}, in flight: {dict(in_flight)}")
        if undisturbed.all_done - run.all_done:
            wrong.append(f"never done: {dict(undisturbed.all_done - run.all_done)}")
        if run.finally_recorded != undisturbed.recorded:
            wrong.append(f"recorded: {run.finally_recorded - undisturbed.recorded}")
        tail = run.log.read_text().splitlines()[-12:] if wrong else []
        return "\n".join([f"{name} {moment}: {'; '.join(wrong)}", *tail]) if wrong else ""

    with ThreadPoolExecutor(6) as pool:
        futures: list[Future[str]] = [pool.submit(problems, *case) for case in cases]
        failures = [found for future in futures if (found := future.result())]
    print(f"{len(cases)} kills, {len(cases) - len(failures)} runs as if nothing had happened")
    assert not failures, "\n".join(failures)
