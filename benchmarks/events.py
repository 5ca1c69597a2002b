"""A run that leaves events beside one that leaves none; and how soon a reader has an event."""

from __future__ import annotations

import os
import statistics
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from benchmarks import model
from benchmarks.databases import databases, kinds
from benchmarks.harness import Row, Worker, compared, interleaved, saying, serve, timed

NAME = "events"
DATABASE = "BENCH_DATABASE_URL"
CALLS = 20

SIDES = {"no events": "silent", "events": "loud"}


def measure(quick: bool, folder: Path) -> list[Row]:
    rounds, calls = (2, 2) if quick else (9, CALLS)
    rows: list[Row] = []
    with databases(folder) as made, ExitStack() as stack:
        env = stack.enter_context(model.running(folder))
        for kind in kinds(quick):
            home = folder / kind
            home.mkdir()
            given = {**env, DATABASE: made.fresh(kind)}
            worker = stack.enter_context(Worker("benchmarks.events", home=home, env=given))
            worker.read()
            sides = {name: partial(_run, worker, side, calls) for name, side in SIDES.items()}
            for run in sides.values():
                run()
            samples = interleaved(sides, rounds)
            count = worker.ask("count", description=model.order(calls))
            cost = statistics.median(
                (loud - silent) / count
                for loud, silent in zip(samples["events"], samples["no events"], strict=True)
            )
            note = {"events": f"{count} events, {cost:.2f} ms more for each"}
            case = f"a crew of one task, {calls} iterations, {kind}"
            rows += compared(NAME, case, "ms a run", samples, notes=note)
            late = worker.ask("late", description=model.order(calls))
            rows += compared(NAME, "from an event to its reader", "ms", {kind: late})
            worker.kill()
    return rows


def _run(worker: Worker, side: str, calls: int) -> float:
    return float(worker.ask("run", side=side, description=model.order(calls))) * 1000


# The worker ------------------------------------------------------------------------------


def _serve() -> None:
    say = saying()
    url = os.environ[DATABASE]
    from dbos import SetWorkflowID

    from benchmarks.databases import launched
    from benchmarks.people import clerk, crew
    from crewai_dbos import DBOSCrew
    from crewai_dbos.control import Control

    crews = {
        name: DBOSCrew(crew_name=name, orig_crew=crew(clerk(), ["{order}"]), events=name == "loud")
        for name in SIDES.values()
    }
    last: list[str] = []

    def run(side: str, description: str) -> float:
        last[:] = [str(uuid4())]
        with SetWorkflowID(last[0]):
            return timed(lambda: crews[side].kickoff({"order": description}))

    def count(description: str) -> int:
        run("loud", description)
        with Control(url) as control:
            return len(list(control.events(last[0])))

    def late(description: str) -> list[float]:
        """Milliseconds from an event to somebody who follows the run."""
        found: list[float] = []
        started = crews["loud"].start({"order": description})

        def read() -> None:
            with Control(url) as control:
                for event in control.events(started.workflow_id, follow=True):
                    found.append((time.time() - event.at.timestamp()) * 1000)

        reader = threading.Thread(target=read)
        reader.start()
        started.get_result()
        reader.join()
        return found

    commands: dict[str, Any] = {"run": run, "count": count, "late": late}
    with launched(url):
        say({})
        serve(say, commands)


if __name__ == "__main__":
    _serve()
