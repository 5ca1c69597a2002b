"""Hundreds of crews and flows after one another in one process: what it has in memory then."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import psutil

from benchmarks import model
from benchmarks.databases import databases
from benchmarks.harness import Row, Worker, compared, saying, serve

NAME = "memory"
PLAIN = "crewAI"
OURS = "crewai-dbos, SQLite"
DATABASE = "BENCH_DATABASE_URL"
"""What a worker records in; empty for plain crewAI."""

LOOKS = 3
RUNS = 100
"""Between two looks."""
WARM = 30
"""Runs that nobody measures: imports, caches, the pools of clients."""


def measure(quick: bool, folder: Path) -> list[Row]:
    runs, warm = (4, 2) if quick else (RUNS, WARM)
    rows: list[Row] = []
    with databases(folder) as made, ExitStack() as stack:
        env = stack.enter_context(model.running(folder))
        workers = {
            PLAIN: _worker(stack, folder, env, "plain", ""),
            OURS: _worker(stack, folder, env, "ours", made.fresh("SQLite")),
        }
        for what in ("crews", "flows"):
            for worker in workers.values():
                worker.ask(what, runs=warm)
            for side, worker in workers.items():
                rows += _in_a_row(worker, side, what, runs)
    return rows


def _in_a_row(worker: Worker, side: str, what: str, runs: int) -> list[Row]:
    figures: dict[str, list[float]] = {}
    notes: dict[str, str] = {}
    for done in range(0, (LOOKS + 1) * runs, runs):
        if done:
            worker.ask(what, runs=runs)
        look, held = f"after {done}" if done else "before", worker.ask("held")
        figures[look] = [held["memory"]]
        notes[look] = f"{held['objects']:,} objects, {held['threads']} threads"
    figures["and malloc_trim"] = [worker.ask("trimmed")]
    notes["and malloc_trim"] = "what the allocator kept of it is given back"
    case = f"{LOOKS * runs} {what} in a row, {side}"
    return compared(NAME, case, "MB", figures, notes=notes)


def _worker(stack: ExitStack, folder: Path, env: dict[str, str], name: str, url: str) -> Worker:
    home = folder / name
    home.mkdir()
    env = {**env, DATABASE: url}
    worker = stack.enter_context(Worker("benchmarks.memory", home=home, env=env))
    worker.read()
    return worker


def held() -> dict[str, float]:
    """What this process has now, when it has collected its garbage."""
    gc.collect()
    process = psutil.Process()
    return {
        "memory": process.memory_info().rss / 1e6,
        "objects": len(gc.get_objects()),
        "threads": process.num_threads(),
    }


def trimmed() -> float:
    """Memory when the allocator has given back what is free, where it is glibc's."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return float(held()["memory"])


# The worker ------------------------------------------------------------------------------


def _serve() -> None:
    say = saying()
    url = os.environ[DATABASE]
    from crewai import Agent, Crew
    from crewai.flow.flow import Flow, start

    from benchmarks.databases import launched
    from benchmarks.people import clerk, crew
    from crewai_dbos import DBOSCrew, DBOSFlow

    def build() -> Crew:
        return crew(clerk(), [model.order(1)])

    class Small(Flow[dict[str, Any]]):
        @start()
        def first(self) -> str:
            return _answer(clerk())

    def _answer(agent: Agent) -> str:
        return str(agent.kickoff(model.order(1)).raw)

    if url:
        durable, flow = (
            DBOSCrew(crew_name="clerks", orig_crew=build),
            DBOSFlow(flow_name="small", orig_flow=Small),
        )
        one: dict[str, Callable[[], Any]] = {"crews": durable.kickoff, "flows": flow.kickoff}
    else:
        one = {"crews": lambda: build().kickoff(), "flows": lambda: Small().kickoff()}

    def some(what: str) -> Callable[..., int]:
        def run(runs: int) -> int:
            for _ in range(runs):
                one[what]()
            return runs

        return run

    with launched(url) if url else nullcontext():
        say({})
        serve(say, {**{what: some(what) for what in one}, "held": held, "trimmed": trimmed})


if __name__ == "__main__":
    _serve()
