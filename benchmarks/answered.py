"""How soon a run that waits for a person goes on when it is answered."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from benchmarks import model
from benchmarks.databases import databases, kinds
from benchmarks.harness import Row, compared
from benchmarks.waiting import worker_on

NAME = "answered"


def measure(quick: bool, folder: Path) -> list[Row]:
    times = 2 if quick else 15
    rows: list[Row] = []
    with databases(folder) as made, ExitStack() as stack:
        env = stack.enter_context(model.running(folder))
        for kind in kinds(quick):
            worker = worker_on(made.fresh(kind), stack, folder, env, kind)
            worker.ask("park", runs=1)
            worker.ask("answer")
            seconds = [worker.ask("latency") for _ in range(times)]
            rows += compared(NAME, "from an answer to the next call", "s", {kind: seconds})
            worker.kill()
    return rows
