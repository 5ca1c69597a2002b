"""``crewai-dbos runs cancel`` and ``resume``."""

from __future__ import annotations

from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from crewai_dbos import _command_lines
from crewai_dbos._commands.asking import EvenIfForked, asked_if_forked
from crewai_dbos._commands.each import each
from crewai_dbos._commands.options import AsJson, RunIds, Url, open_control, what_failed
from crewai_dbos._printable import plain
from crewai_dbos.control import Run
from crewai_dbos.errors import CrewaiDbosError


def cancel(
    run_ids: RunIds,
    reason: Annotated[str | None, typer.Option(help="Why, for whoever waits for it.")] = None,
    by: Annotated[str | None, typer.Option(help="Who; by default your user name.")] = None,
    db_url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Cancel runs, or give up those that have stopped; of a batch the items that have not ended.

    Exits with 1 if one of them can't be cancelled; the others are.
    """
    with open_control(db_url) as control:

        def do(run_id: str) -> str:
            control.cancel(run_id, reason=reason, by=by)
            return f"{run_id} is cancelled. {_then(control.run(run_id))}"

        each(control, run_ids, do, "cancelled", as_json)


def _then(run: Run) -> str:
    """How to come to the result of a run that is cancelled."""
    forks = [fork for fork in run.forks if fork.state not in ("cancelled", "stopped")]
    if not forks:
        return f"To go on: {_command_lines.resume(run.run_id)}"
    named = ", ".join(f"{fork.run_id} ({fork.state})" for fork in forks)
    return f"The result is that of its {'fork' if len(forks) == 1 else 'forks'} {named}."


def resume(
    run_ids: RunIds,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="What each may take; else no limit.")
    ] = None,
    even_if_forked: EvenIfForked = False,
    db_url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Let runs go on that were cancelled or stopped, or what was cancelled of a batch.

    Exits with 1 if one of them can't be resumed; the others are.
    """
    with open_control(db_url) as control:

        def do(run_id: str) -> str:
            def go_on(even_if_forked: bool) -> None:
                control.resume(run_id, timeout=timeout, even_if_forked=even_if_forked)

            asked_if_forked(go_on, even_if_forked, "resume", not as_json)
            return f"{run_id} goes on as soon as a process takes it."

        def look(run_id: str) -> None:
            try:
                run = control.run(run_id)
            except (CrewaiDbosError, SQLAlchemyError) as error:  # it is resumed all the same
                typer.echo(f"How it stands can't be read: {plain(what_failed(error))}", err=True)
                return
            if run.state == "stranded":
                typer.echo(plain(run.reason), err=True)

        each(control, run_ids, do, "resumed", as_json, look)
