"""A run of 20 iterations with a tool and a model that answers at once, on every side.

Two workers, because dbos-crewai needs an older crewAI: one in this environment, and one in an
environment that is made for it.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import tempfile
import venv
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks import model
from benchmarks.harness import (
    ROOT,
    Row,
    Samples,
    Worker,
    compared,
    interleaved,
    saying,
    serve,
    timed,
)

NAME = "run with a zero-latency model"
CALLS = 20

OURS = "crewai-dbos"
CHECKPOINTS = "crewAI's checkpoints, one a task"

RIVAL = ROOT / ".venvs" / "dbos-crewai"
RIVAL_PACKAGES = ("dbos-crewai==0.0.2", "crewai==1.6.1", "dbos==3.4.0")
"""With the newest crewAI that its own example ran on."""


def measure(quick: bool, folder: Path) -> list[Row]:
    rounds, calls = (2, 2) if quick else (9, CALLS)
    python, why_not = (None, "not part of a quick run") if quick else _rival()
    with ExitStack() as stack:
        env = stack.enter_context(model.running(folder))
        here = stack.enter_context(Worker("benchmarks.zero_latency_run", home=folder, env=env))
        versions = here.read()
        plain = f"crewAI {versions['crewai']}"
        cases: dict[str, dict[str, Callable[[], float]]] = {
            f"an agent, {calls} iterations": {
                plain: partial(_run, here, "agent", calls),
                OURS: partial(_run, here, "durable agent", calls),
            },
            f"a crew of one task, {calls} iterations": {
                plain: partial(_run, here, "crew", calls),
                OURS: partial(_run, here, "durable crew", calls),
                CHECKPOINTS: partial(_run, here, "checkpointed crew", calls),
            },
        }
        if python is not None:
            there = stack.enter_context(
                Worker("benchmarks.rival", home=folder, python=python, env=env)
            )
            old = there.read()
            cases[f"an agent, {calls} iterations, on the crewAI of dbos-crewai"] = {
                f"crewAI {old['crewai']}": partial(_run, there, "plain", calls),
                f"dbos-crewai {old['dbos-crewai']}": partial(_run, there, "durable", calls),
            }
        # Not case by case: what else the machine does meanwhile should meet all of them.
        sides = {(case, side): run for case, each in cases.items() for side, run in each.items()}
        for run in sides.values():
            run()
        samples = interleaved({str(key): run for key, run in sides.items()}, rounds)
        rows = []
        for case, each in cases.items():
            mine = {side: samples[str((case, side))] for side in each}
            rows += compared(NAME, case, "ms a run", mine, notes=_notes(mine, calls))
        written = here.ask("checkpoints")
    rows = [_with_checkpoints(row, written, rounds + 1) for row in rows]
    return rows if python is not None else [*rows, _missing(rows[0], why_not)]


def _run(worker: Worker, side: str, calls: int) -> float:
    return float(worker.ask("run", side=side, description=model.order(calls))) * 1000


def _notes(samples: Samples, calls: int) -> dict[str, str]:
    """What a recorded call adds, where calls are recorded."""
    reference, *others = samples
    added = {
        side: statistics.median(
            (mine - its) / (2 * calls + 1)
            for mine, its in zip(samples[side], samples[reference], strict=True)
        )
        for side in others
        if side != CHECKPOINTS
    }
    return {side: f"{ms:.1f} ms more for each recorded call" for side, ms in added.items()}


def _with_checkpoints(row: Row, written: int, runs: int) -> Row:
    if row.side != CHECKPOINTS:
        return row
    return Row(**{**vars(row), "note": f"{written} checkpoints in {runs} runs"})


def _missing(like: Row, why: str) -> Row:
    """A row without a ratio, so that what could not be measured is in the table too."""
    side = f"dbos-crewai ({why})"
    return Row(NAME, like.case, side, like.unit, like.figure, note="the figure is plain crewAI's")


def _rival() -> tuple[Path | None, str]:
    """The interpreter of dbos-crewai's environment, or None and why there is none."""
    python = RIVAL / "bin" / "python"
    stamp = RIVAL / "packages.txt"
    wanted = "\n".join(RIVAL_PACKAGES)
    if stamp.exists() and stamp.read_text() == wanted:
        return python, ""
    shutil.rmtree(RIVAL, ignore_errors=True)
    venv.create(RIVAL, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, *RIVAL_PACKAGES], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        return None, f"pip could not install it: {lines[-1]}"
    stamp.write_text(wanted)
    return python, ""


# The worker ------------------------------------------------------------------------------


def _serve() -> None:
    say = saying()
    from importlib.metadata import version

    from crewai import Task

    from benchmarks.databases import launched
    from benchmarks.people import clerk, crew
    from crewai_dbos import DBOSAgent, DBOSCrew, StepConfig

    agent = clerk()
    durable = DBOSAgent(agent_name="clerk", orig_agent=clerk(), tool_step_config=StepConfig())
    checkpoints = Path(tempfile.mkdtemp(dir=Path.cwd()))

    def task(description: str) -> Task:
        return Task(description=description, expected_output="A summary.")

    durable_crew = DBOSCrew(crew_name="clerks", orig_crew=crew(clerk(), ["{order}"]))

    works: dict[str, Callable[[str], object]] = {
        "agent": lambda text: agent.execute_task(task(text)),
        "durable agent": lambda text: durable.execute_task(task(text)),
        "crew": lambda text: crew(agent, [text]).kickoff(),
        "durable crew": lambda text: durable_crew.kickoff({"order": text}),
        "checkpointed crew": lambda text: crew(
            agent, [text], checkpoints=str(checkpoints)
        ).kickoff(),
    }

    def run(side: str, description: str) -> float:
        return timed(lambda: works[side](description))

    def written() -> int:
        return len(list(checkpoints.rglob("*.json")))

    with launched(f"sqlite:///{Path.cwd()}/run.sqlite"):
        say({"crewai": version("crewai")})
        serve(say, {"run": run, "checkpoints": written})


if __name__ == "__main__":
    _serve()
