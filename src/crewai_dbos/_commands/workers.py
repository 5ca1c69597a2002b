"""``crewai-dbos workers``: who is at work on a database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from crewai_dbos._commands import tables
from crewai_dbos._commands.options import AsJson, Url, ago, as_json_text, open_control
from crewai_dbos._commands.tables import Column, Table
from crewai_dbos._printable import plain
from crewai_dbos.control import WorkerInfo


def workers(
    every: Annotated[
        bool, typer.Option("--all", help="Also those that have ended, for a day.")
    ] = False,
    db_url: Url = None,
    as_json: AsJson = False,
) -> None:
    """The workers on a database that live, and those that are gone and have left runs."""
    with open_control(db_url) as control:
        known = control.workers()
    found = [each for each in known if every or each.alive or each.runs]
    if as_json:
        typer.echo(as_json_text([asdict(worker) for worker in found]))
    elif found:
        tables.show(tables.console(), _table(found))
    elif known:
        typer.echo(
            "No worker lives. `crewai-dbos worker` starts one, and `crewai-dbos workers --all` "
            "shows those that have ended."
        )
    else:
        typer.echo("No worker has been here. `crewai-dbos worker` starts one.")


def _table(found: Sequence[WorkerInfo]) -> Table:
    table = Table(
        (
            Column("worker"),
            Column("application", 3),
            Column("version", 2, least=8),
            Column("state"),
            Column("runs", is_number=True),
            Column("beat", 1, is_number=True),
            Column("lease", 5, is_number=True),
            Column("began", 4),
        ),
        note="has",
        is_whole=True,
    )
    for worker in found:
        state = Text("alive", "green") if worker.alive else Text("gone", "bold yellow")
        if worker.age is None:
            state = Text("stopped", "dim")
        table.row(
            plain(worker.executor_id),
            plain(worker.application),
            plain(worker.version),
            state,
            str(worker.runs),
            "" if worker.age is None else f"{worker.age:.0f}s ago",
            f"{worker.lease:g}s",
            ago(worker.started),
            note="; ".join(
                f"{noun} {', '.join(map(plain, names))}"
                for noun, names in worker.definitions.items()
            ),
        )
    return table
