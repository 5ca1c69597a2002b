"""``crewai-dbos runs cancel`` and ``resume``."""

from __future__ import annotations

from typing import Annotated

import typer

from crewai_dbos import _command_lines
from crewai_dbos._commands.options import AsJson, RunId, Url, as_json_text, open_control, plain


def cancel(
    run_id: RunId,
    reason: Annotated[str | None, typer.Option(help="Why, for whoever waits for it.")] = None,
    by: Annotated[str | None, typer.Option(help="Who; by default your user name.")] = None,
    db_url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Cancel a run, or give up one that has stopped; of a batch the items that have not ended."""
    with open_control(db_url) as control:
        run_id = control.id_of(run_id)
        control.cancel(run_id, reason=reason, by=by)
    if as_json:
        typer.echo(as_json_text({"run_id": run_id}))
    else:
        typer.echo(f"{run_id} is cancelled. To go on: {_command_lines.resume(run_id)}")


def resume(
    run_id: RunId,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="What it may take; by default no limit.")
    ] = None,
    db_url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Let a run go on that was cancelled or stopped, or what was cancelled of a batch."""
    with open_control(db_url) as control:
        run_id = control.id_of(run_id)
        control.resume(run_id, timeout=timeout)
        run = control.run(run_id)
    if as_json:
        typer.echo(as_json_text({"run_id": run_id}))
    else:
        typer.echo(f"{run_id} goes on as soon as a process takes it.")
    if run.state == "stranded":
        typer.echo(plain(run.reason), err=True)
