"""``crewai-dbos runs cancel`` and ``resume``."""

from __future__ import annotations

from typing import Annotated

import typer

from crewai_dbos._commands.options import Url, open_control

Id = Annotated[str, typer.Argument(metavar="ID", help="Of the run, or of a batch.")]


def cancel(
    run_id: Id,
    reason: Annotated[str | None, typer.Option(help="Why, for whoever waits for it.")] = None,
    by: Annotated[str | None, typer.Option(help="Who; by default your user name.")] = None,
    db_url: Url = None,
) -> None:
    """Cancel a run, or the items of a batch."""
    with open_control(db_url) as control:
        control.cancel(run_id, reason=reason, by=by)
    typer.echo(f"{run_id} is cancelled. To go on: crewai-dbos runs resume {run_id}")


def resume(
    run_id: Id,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="What it may take; by default no limit.")
    ] = None,
    db_url: Url = None,
) -> None:
    """Let a run go on that was cancelled or stopped, or what was cancelled of a batch."""
    with open_control(db_url) as control:
        control.resume(run_id, timeout=timeout)
    typer.echo(f"{run_id} goes on as soon as a process takes it.")
