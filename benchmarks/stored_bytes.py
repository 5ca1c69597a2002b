"""What a crew leaves in storage as it gets more tasks, beside crewAI's own checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from dbos import SetWorkflowID

from benchmarks import model
from benchmarks.databases import databases, launched
from benchmarks.harness import Row, Worker, compared, saying, serve

NAME = "bytes stored"
OURS = "crewai-dbos"
CHECKPOINTS = "crewAI's checkpoints, one a task"
TASKS = (1, 5, 10, 20)
TOOL_CALLS = 3
"""Of each task, so seven recorded calls."""


def measure(quick: bool, folder: Path) -> list[Row]:
    rows: list[Row] = []
    with (
        model.running(folder) as env,
        Worker("benchmarks.stored_bytes", home=folder, env=env) as worker,
    ):
        worker.read()
        for tasks in TASKS[: 2 if quick else None]:
            found = worker.ask("run", tasks=tasks)
            samples = {side: [found[side] / 1000] for side in (CHECKPOINTS, OURS)}
            notes = {
                OURS: f"{found[OURS] / found['calls']:,.0f} bytes for each of {found['calls']} "
                f"recorded calls, {found[OURS] / tasks / 1000:,.1f} kB a task",
                CHECKPOINTS: f"{found['files']} files, {found[CHECKPOINTS] / tasks / 1000:,.1f} kB "
                "a task",
            }
            rows += compared(NAME, f"tasks: {tasks}", "kB a run", samples, notes=notes)
    return rows


# The worker ------------------------------------------------------------------------------


def _serve() -> None:
    say = saying()
    from benchmarks.people import clerk, crew
    from crewai_dbos import DBOSCrew

    here = Path.cwd()
    agent = clerk()

    def run(url: str, tasks: int) -> dict[str, int]:
        texts = [model.order(TOOL_CALLS)] * tasks
        durable = DBOSCrew(crew_name=f"tasks-{tasks}", orig_crew=lambda: crew(clerk(), texts))
        with SetWorkflowID(f"tasks-{tasks}"):
            durable.kickoff()
        checkpoints = here / f"checkpoints-{tasks}"
        crew(agent, texts, checkpoints=str(checkpoints)).kickoff()
        files = [file for file in checkpoints.rglob("*") if file.is_file()]
        stored, calls = _stored(url, f"tasks-{tasks}")
        return {
            OURS: stored,
            "calls": calls,
            CHECKPOINTS: sum(os.path.getsize(file) for file in files),
            "files": len(files),
        }

    with databases(here) as made:
        url = made.fresh("SQLite")
        with launched(url):
            say({})
            answers: dict[str, Callable[..., object]] = {"run": partial(run, url)}
            serve(say, answers)


def _stored(url: str, run: str) -> tuple[int, int]:
    """Bytes in all columns of the run's rows, and the number of calls that are LLM or tool."""
    total = 0
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        for table in ("workflow_status", "operation_outputs"):
            rows = connection.execute(
                sa.text(f"SELECT * FROM {table} WHERE workflow_uuid = :run"), {"run": run}
            )
            total += sum(
                len(str(cell).encode()) for row in rows for cell in row if cell is not None
            )
        names = connection.execute(
            sa.text("SELECT function_name FROM operation_outputs WHERE workflow_uuid = :run"),
            {"run": run},
        ).scalars()
        calls = [name for name in names if "/llm#" in name or "/tool:" in name]
    engine.dispose()
    return total, len(calls)


if __name__ == "__main__":
    _serve()
