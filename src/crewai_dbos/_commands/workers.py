"""``crewai-dbos workers``: who is at work on a database."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from crewai_dbos._commands.options import AsJson, Url, ago, open_control, plain
from crewai_dbos.control import WorkerInfo


def workers(db_url: Url = None, as_json: AsJson = False) -> None:
    """The workers on a database, and those that are gone."""
    with open_control(db_url) as control:
        found = control.workers()
    if as_json:
        each = [asdict(worker) for worker in found]
        typer.echo(json.dumps(each, indent=2, default=datetime.isoformat))
    elif not found:
        typer.echo("No worker has been here. `crewai-dbos worker` starts one.")
    else:
        Console(highlight=False).print(_table(found))


def _table(found: Sequence[WorkerInfo]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("worker", overflow="fold", min_width=8)
    table.add_column("of", overflow="fold", min_width=6)
    table.add_column("state", no_wrap=True)
    table.add_column("beat", no_wrap=True, justify="right")
    table.add_column("lease", no_wrap=True, justify="right")
    table.add_column("runs", no_wrap=True, justify="right")
    table.add_column("began", no_wrap=True, justify="right")
    table.add_column("has", overflow="fold", ratio=1)
    for worker in found:
        state = Text("alive", "green") if worker.alive else Text("gone", "bold yellow")
        if worker.age is None:
            state = Text("stopped", "dim")
        table.add_row(
            plain(worker.executor_id),
            f"{plain(worker.application)} {plain(worker.version)}",
            state,
            "" if worker.age is None else f"{worker.age:.0f}s",
            f"{worker.lease:g}s",
            str(worker.runs),
            ago(worker.started),
            "; ".join(
                f"{noun} {', '.join(map(plain, names))}"
                for noun, names in worker.definitions.items()
            ),
        )
    return table
