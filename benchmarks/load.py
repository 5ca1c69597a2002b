"""Many runs at once in one process: calls a second, and memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks import model
from benchmarks.databases import databases, kinds
from benchmarks.harness import Row, Worker, compared, interleaved, saying, serve, timed

NAME = "load"
PLAIN = "crewAI"
DATABASE = "BENCH_DATABASE_URL"
"""What a worker records in; empty for plain crewAI."""
AT_ONCE = (1, 8, 32, 128)
CALLS = 3
"""Of each run: two LLM requests and a tool call."""


def measure(quick: bool, folder: Path) -> list[Row]:
    rounds, runs = (1, 8) if quick else (2, 32)
    at_once = AT_ONCE[: 2 if quick else None]
    rows: list[Row] = []
    with databases(folder) as made, ExitStack() as stack:
        env = stack.enter_context(model.running(folder))
        workers = {PLAIN: _worker(stack, folder, env, "plain", "")}
        for kind in kinds(quick):
            url = made.fresh(kind)
            workers[f"crewai-dbos, {kind}"] = _worker(stack, folder, env, kind, url)
        for worker in workers.values():
            worker.ask("run", runs=8, at_once=1)
        for number in at_once:
            sides = {
                side: partial(_throughput, worker, max(runs, number), number)
                for side, worker in workers.items()
            }
            samples = interleaved(sides, rounds)
            notes = {side: f"{worker.ask('memory'):,.0f} MB" for side, worker in workers.items()}
            case = f"runs at once: {number}"
            rows += compared(NAME, case, "calls/s", samples, notes=notes)
    return rows


def _worker(stack: ExitStack, folder: Path, env: dict[str, str], name: str, url: str) -> Worker:
    home = folder / name
    home.mkdir()
    env = {**env, DATABASE: url}
    worker = stack.enter_context(Worker("benchmarks.load", home=home, env=env))
    worker.read()
    return worker


def _throughput(worker: Worker, runs: int, at_once: int) -> float:
    return runs * CALLS / float(worker.ask("run", runs=runs, at_once=at_once))


# The worker ------------------------------------------------------------------------------


def _serve() -> None:
    say = saying()
    url = os.environ[DATABASE]
    from crewai import Task

    from benchmarks.databases import launched
    from benchmarks.people import clerk
    from crewai_dbos import DBOSAgent, StepConfig

    text = model.order(1)
    work: Callable[[], Any]
    if not url:
        # One agent is not made for several runs at once: crewAI leaves state on it.
        def work() -> str:
            return str(clerk().execute_task(Task(description=text, expected_output="A summary.")))
    else:
        durable = DBOSAgent(agent_name="clerk", orig_agent=clerk(), tool_step_config=StepConfig())

        def work() -> str:
            return str(durable.execute_task(Task(description=text, expected_output="A summary.")))

    def run(runs: int, at_once: int) -> float:
        def all_of_them() -> None:
            with ThreadPoolExecutor(at_once) as pool:
                for future in [pool.submit(work) for _ in range(runs)]:
                    future.result()

        return timed(all_of_them)

    def memory() -> float:
        return psutil.Process().memory_info().rss / 1e6

    with launched(url) if url else nullcontext():
        say({})
        serve(say, {"run": run, "memory": memory})


if __name__ == "__main__":
    _serve()
