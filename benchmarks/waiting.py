"""Crews that wait for a person: what they cost while they wait, and how they are worked off."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks import model
from benchmarks.databases import databases, kinds
from benchmarks.harness import Row, Worker, compared, saying, serve, timed
from benchmarks.memory import held, trimmed
from crewai_dbos.control import Approve, Control

NAME = "waiting"
DATABASE = "BENCH_DATABASE_URL"
AT_ONCE = 16
"""Runs that are started, and looked for, at the same time."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        looks: How often the memory of a process is looked at whose runs wait and go on.
        cycles: Runs between two looks.
        many: Runs that wait at the same time.
        alone: Requests of these that are answered while no process works.
    """

    looks: int
    cycles: int
    many: int
    alone: int


WHOLE = Sizes(looks=6, cycles=96, many=2_000, alone=300)
QUICK = Sizes(looks=2, cycles=4, many=8, alone=3)


def measure(quick: bool, folder: Path) -> list[Row]:
    sizes = QUICK if quick else WHOLE
    rows: list[Row] = []
    with databases(folder) as made, ExitStack() as stack:
        env = stack.enter_context(model.running(folder))
        kind = kinds(quick)[-1]
        rows += _cycles(worker_on(made.fresh(kind), stack, folder, env, "cycles"), sizes)
        rows += _many(stack, folder, env, made.fresh(kind), made.fresh(kind), sizes)
    return rows


def _cycles(worker: Worker, sizes: Sizes) -> list[Row]:
    """Runs wait and go on, many after one another; what the process has in memory meanwhile."""
    figures: dict[str, list[float]] = {}
    notes: dict[str, str] = {}
    for done in range(sizes.cycles, (sizes.looks + 1) * sizes.cycles, sizes.cycles):
        worker.ask("cycles", runs=sizes.cycles)
        held = worker.ask("held")
        figures[f"after {done}"] = [held["memory"]]
        notes[f"after {done}"] = f"{held['objects']:,} objects, {held['threads']} threads"
    figures["and malloc_trim"] = [worker.ask("trimmed")]
    notes["and malloc_trim"] = "what the allocator kept of it is given back"
    worker.kill()
    return compared(NAME, "runs that wait and go on", "MB", figures, notes=notes)


def _many(
    stack: ExitStack, folder: Path, env: dict[str, str], empty: str, url: str, sizes: Sizes
) -> list[Row]:
    """Many runs wait: what a process costs that is started then, and how they are worked off."""
    parking = [worker_on(url, stack, folder, env, f"parking-{number}") for number in range(2)]
    for worker in parking:
        worker.tell("park", runs=sizes.many // 2)
    for worker in parking:
        worker.read()
        worker.kill()
    idle = worker_on(empty, stack, folder, env, "idle")
    worker = worker_on(url, stack, folder, env, "waiting")
    time.sleep(5)  # for what a launch does in the background
    rows = []
    for what, unit in (("memory", "MB"), ("threads", "threads")):
        samples = {
            "none wait": [idle.ask("held")[what]],
            f"{sizes.many:,} wait": [worker.ask("held")[what]],
        }
        rows += compared(NAME, f"a process started while crews wait: {what}", unit, samples)
    idle.kill()
    worker.kill()
    alone = list(islice(_answers(url), sizes.alone))
    rows += compared(NAME, "an answer, while no process works", "ms", {"an answer": alone})
    worker = worker_on(url, stack, folder, env, "working")
    worker.tell("work_off")
    beside = list(_answers(url))
    done = worker.read()
    note = f"{sizes.many:,} runs, at most {done['most']} at once, {done['seconds']:,.0f} s for all"
    case = "an answer, beside the process that works them off"
    samples, notes = {"an answer": beside}, {"an answer": note}
    return [*rows, *compared(NAME, case, "ms", samples, notes=notes)]


def _answers(url: str) -> Iterator[float]:
    """Answer everything that is open, and say how many milliseconds each took."""
    with Control(url) as control:
        for request in control.requests():
            answer = partial(control.answer, request.request_id, Approve(), by="bench")
            yield timed(answer) * 1000


def worker_on(url: str, stack: ExitStack, folder: Path, env: dict[str, str], name: str) -> Worker:
    """A process whose runs wait on the database `url`."""
    home = folder / name
    home.mkdir()
    worker = Worker("benchmarks.waiting", home=home, env={**env, DATABASE: url})
    stack.enter_context(worker)
    worker.read()
    return worker


# The worker ------------------------------------------------------------------------------


def _serve() -> None:
    say = saying()
    url = os.environ[DATABASE]
    import sqlalchemy as sa
    from dbos import DBOS

    from benchmarks.databases import launched
    from benchmarks.people import clerk, crew
    from crewai_dbos import DBOSCrew, People
    from crewai_dbos._dbos_seam.database import launched_database

    durable = DBOSCrew(
        crew_name="waiting",
        orig_crew=lambda: crew(clerk(), [model.order(1)]),
        people=People(approve_tools=["look_up"], linger=0.0),
    )

    def count(*statuses: str, among: list[str] | None = None) -> int:
        # A count and no list: of 2,000 rows a list, asked for all the time, is most of the work.
        database = launched_database()
        query = sa.select(sa.func.count()).where(database.runs.c.status.in_(statuses))
        if among is not None:
            query = query.where(database.runs.c.workflow_uuid.in_(among))
        with database.engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def wait_for(condition: Callable[[], bool]) -> None:
        while not condition():
            time.sleep(0.05)

    def all_ended() -> bool:
        return count("DELAYED", "ENQUEUED", "PENDING") == 0

    def are_parked(run_ids: list[str]) -> bool:
        return count("DELAYED", among=run_ids) == len(run_ids)

    def park(runs: int) -> int:
        """Start so many runs, and return when none of them is at work any more."""
        for begun in range(0, runs, AT_ONCE):
            some = range(min(AT_ONCE, runs - begun))
            started = [durable.start().workflow_id for _ in some]
            wait_for(partial(are_parked, started))
        return runs

    def answer() -> None:
        for _ in _answers(url):
            pass
        wait_for(all_ended)

    def work_off() -> dict[str, Any]:
        """Wait for all that is answered, and see how many runs are at work at the same time."""
        most, over = [0], threading.Event()

        def look() -> None:
            while not over.wait(0.05):
                most[0] = max(most[0], count("PENDING"))

        looking = threading.Thread(target=look)
        looking.start()
        began = time.perf_counter()
        wait_for(all_ended)
        over.set()
        looking.join()
        return {"most": most[0], "seconds": time.perf_counter() - began}

    def latency() -> float:
        """From the answer to the record of the tool call that waited for it."""
        park(1)
        with Control(url) as control:
            (request,) = control.requests()
            control.answer(request.request_id, Approve(), by="bench")
        began = time.perf_counter()

        def called() -> bool:
            steps = DBOS.list_workflow_steps(request.run_id)
            return any("/tool:look_up" in step["function_name"] for step in steps)

        wait_for(called)
        seconds = time.perf_counter() - began
        wait_for(all_ended)
        return seconds

    def cycles(runs: int) -> int:
        for _ in range(0, runs, AT_ONCE):
            park(min(AT_ONCE, runs))
            answer()
        return runs

    with launched(url):
        say({})
        serve(
            say,
            {
                "park": park,
                "answer": answer,
                "work_off": work_off,
                "latency": latency,
                "cycles": cycles,
                "held": held,
                "trimmed": trimmed,
            },
        )


if __name__ == "__main__":
    _serve()
