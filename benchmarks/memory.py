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

RUNS = 300
WARM = 30
"""Runs that nobody measures: imports, caches, the pools of clients."""


def measure(quick: bool, folder: Path) -> list[Row]:
    runs, warm = (10, 2) if quick else (RUNS, WARM)
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
    before = worker.ask("held")
    worker.ask(what, runs=runs)
    after = worker.ask("held")
    trimmed = worker.ask("trimmed")
    more = (after["memory"] - before["memory"]) * 1000 / runs
    notes = {
        "before": f"{before['objects']:,} objects, {before['threads']} threads",
        "after": f"{more:,.1f} kB a run, {after['objects']:,} objects, {after['threads']} threads",
        "and malloc_trim": "what the allocator kept of it is given back",
    }
    figures = {
        "before": [before["memory"]],
        "after": [after["memory"]],
        "and malloc_trim": [trimmed],
    }
    return compared(NAME, f"{runs} {what} in a row, {side}", "MB", figures, notes=notes)


def _worker(stack: ExitStack, folder: Path, env: dict[str, str], name: str, url: str) -> Worker:
    home = folder / name
    home.mkdir()
    env = {**env, DATABASE: url}
    worker = stack.enter_context(Worker("benchmarks.memory", home=home, env=env))
    worker.read()
    return worker


# The worker ------------------------------------------------------------------------------


def _serve() -> None:
    say = saying()
    url = os.environ[DATABASE]
    from crewai import Agent, Crew
    from crewai.flow.flow import Flow, listen, start

    from benchmarks.databases import launched
    from benchmarks.people import clerk, crew
    from crewai_dbos import DBOSCrew, DBOSFlow

    def build() -> Crew:
        return crew(clerk(), [model.order(1)] * 2)

    class Small(Flow[dict[str, Any]]):
        @start()
        def first(self) -> str:
            return _answer(clerk())

        @listen(first)
        def second(self, before: str) -> str:
            return before + _answer(clerk())

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

    def held() -> dict[str, float]:
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

    with launched(url) if url else nullcontext():
        say({})
        serve(say, {**{what: some(what) for what in one}, "held": held, "trimmed": trimmed})


if __name__ == "__main__":
    _serve()
