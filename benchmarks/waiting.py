"""Crews that wait for a person: what they cost while they wait, and how soon they go on."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks import model
from benchmarks.databases import databases, kinds
from benchmarks.harness import Row, Worker, compared, saying, serve, timed
from crewai_dbos.control import Approve, Control

NAME = "waiting"
DATABASE = "BENCH_DATABASE_URL"
AT_ONCE = 16
"""Runs that are started, and looked for, at the same time."""


def measure(quick: bool, folder: Path) -> list[Row]:
    many, latencies, first, cycles = (8, 3, 2, 4) if quick else (2_000, 15, 100, 500)
    rows: list[Row] = []
    with databases(folder) as made, ExitStack() as stack:
        env = stack.enter_context(model.running(folder))
        for kind in kinds(quick):
            url = made.fresh(kind)
            worker = _worker(stack, folder, env, f"{kind}-latency", url)
            worker.ask("park", runs=1)
            worker.ask("answer")
            woken = [worker.ask("latency") for _ in range(latencies)]
            rows += compared(NAME, "from an answer to the next call", "s", {kind: woken})
            if kind != kinds(quick)[0]:
                worker.kill()
                continue
            worker.ask("cycles", runs=first)
            before = worker.ask("memory")
            worker.ask("cycles", runs=cycles)
            after = worker.ask("memory")
            rows += compared(
                NAME,
                f"{cycles:,} runs that wait and go on, after {first} others, {kind}",
                "MB",
                {"before": [before], "after": [after]},
                notes={"after": f"{(after - before) * 1000 / cycles:,.1f} kB a run"},
            )
            worker.kill()
        kind = kinds(quick)[-1]
        rows += _many(stack, folder, env, made.fresh(kind), made.fresh(kind), many)
    return rows


def _many(
    stack: ExitStack, folder: Path, env: dict[str, str], empty: str, url: str, many: int
) -> list[Row]:
    """Many runs wait: what a process costs that is started then, and how they are worked off."""
    parking = _worker(stack, folder, env, "parking", url)
    for _ in range(0, many, AT_ONCE):
        parking.ask("park", runs=min(AT_ONCE, many))
    parking.kill()
    idle = _worker(stack, folder, env, "idle", empty)
    worker = _worker(stack, folder, env, "working", url)
    time.sleep(5)  # for what a launch does in the background
    rows = []
    for what, unit in (("memory", "MB"), ("threads", "threads")):
        samples = {"none wait": [idle.ask(what)], f"{many:,} wait": [worker.ask(what)]}
        rows += compared(NAME, f"a process started while crews wait: {what}", unit, samples)
    idle.kill()
    worker.tell("work_off")
    milliseconds = {"an answer": list(_answers(url))}
    done = worker.read()
    note = {"an answer": f"at most {done['most']} runs at once, {done['seconds']:,.0f} s for all"}
    case = f"answers to {many:,}, by a process beside the one that works them off"
    return [*rows, *compared(NAME, case, "ms", milliseconds, notes=note)]


def _answers(url: str) -> Iterator[float]:
    """Answer everything that is open, and say how many milliseconds each took."""
    with Control(url) as control:
        for request in control.requests():
            answer = partial(control.answer, request.request_id, Approve(), by="bench")
            yield timed(answer) * 1000


def _worker(stack: ExitStack, folder: Path, env: dict[str, str], name: str, url: str) -> Worker:
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

    def count(*statuses: str) -> int:
        # A count and no list: of 2,000 rows a list, asked for all the time, is most of the work.
        database = launched_database()
        of_these = database.runs.c.status.in_(statuses)
        with database.engine.connect() as connection:
            counted = connection.execute(sa.select(sa.func.count()).where(of_these))
            return int(counted.scalar_one())

    def wait_for(condition: Callable[[], bool]) -> None:
        while not condition():
            time.sleep(0.05)

    def all_ended() -> bool:
        return count("DELAYED", "ENQUEUED", "PENDING") == 0

    def park(runs: int) -> int:
        waiting = count("DELAYED")
        for _ in range(runs):
            durable.start()
        wait_for(lambda: count("DELAYED") >= waiting + runs)
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

    def memory() -> float:
        return psutil.Process().memory_info().rss / 1e6

    def threads() -> int:
        return threading.active_count()

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
                "memory": memory,
                "threads": threads,
            },
        )


if __name__ == "__main__":
    _serve()
