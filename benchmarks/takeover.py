"""How long after the death of a worker another one is at its runs."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks import model
from benchmarks.databases import databases
from benchmarks.fleet import LEASE, process
from benchmarks.harness import Row, Spread

NAME = "takeover"
QUEUE = "jobs"
RUNS = 4
SLOW = 60.0
"""Seconds that the model takes: the runs are at work all the time."""


def measure(quick: bool, folder: Path) -> list[Row]:
    kills = {6: 1} if quick else {6: 12, 30: 3}
    rows = []
    with databases(folder) as made:
        for lease, count in kills.items():
            home = folder / str(lease)
            home.mkdir()
            seconds = _killed(made.fresh("Postgres"), home, lease, count)
            case = f"kill -9, lease of {lease} s"
            note = "each: " + ", ".join(f"{each:.1f}" for each in sorted(seconds))
            rows.append(
                Row(NAME, case, "all its runs are at work", "s", Spread.of(seconds), note=note)
            )
    return rows


def _killed(url: str, folder: Path, lease: int, count: int) -> list[float]:
    """Have the runs of two workers, and kill the one that has most, again and again."""
    chance = random.Random(lease)
    seconds = []
    with ExitStack() as stack:
        env = {**stack.enter_context(model.running(folder, SLOW)), LEASE: str(lease)}
        starter = process(stack, folder, env, url, "starter", "nothing")
        starter.ask("register", queue=QUEUE, at_once=2 * RUNS, polling=1.0)
        victim = process(stack, folder, env, url, "worker-0", QUEUE)
        runs = starter.ask("begin", queue=QUEUE, runs=RUNS)
        for number in range(1, count + 1):
            other = process(stack, folder, env, url, f"worker-{number}", QUEUE)
            time.sleep(lease / 6 + chance.random() * lease / 6)  # it has looked; at any time
            executor_id = victim.ask("executor_id")
            victim.kill()
            seconds.append(float(starter.ask("taken", executor_id=executor_id, runs=runs)))
            victim = other
    return seconds
