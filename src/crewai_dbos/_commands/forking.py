"""``crewai-dbos runs fork``: a run again from a place in it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from crewai_dbos._commands import typed
from crewai_dbos._commands.asking import EvenIfForked, asked_if_forked, is_terminal
from crewai_dbos._commands.options import AsJson, RunId, Url, as_json_text, open_control
from crewai_dbos._printable import plain
from crewai_dbos.control import MadeAgain, Run


def fork(
    run_id: RunId,
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLACE",
            help="Made again, with what depends on it: task:2, task:write, method:draft#2, or a "
            "name of its journal; may be given again. At failure what the run failed at, at end "
            "nothing; without it and --edit everything.",
        ),
    ] = None,
    edit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLACE=VALUE",
            help="A result to go on with: JSON, or else a text; PLACE=@FILE for the text in a "
            "file, or JSON in a .json.",
        ),
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option(metavar="JSON | @FILE", help="Other inputs, for a fork that keeps nothing."),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(help="The application version that takes it; by default the newest."),
    ] = None,
    by: Annotated[str | None, typer.Option(help="Who does it; by default your user name.")] = None,
    new_id: Annotated[
        str | None, typer.Option("--id", help="Of the fork. Asked for again, it is one fork.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be made again.")
    ] = False,
    even_if_forked: EvenIfForked = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    db_url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Begin a new run with what another has recorded, less what depends on a place in it.

    The other run stays as it is. Tools that are made again have their effects again: what that is
    it says, and asks at a terminal. Exits with 2 if it can't be forked so, and with 1 if it has not
    ended, and another fork makes what is left of it.
    """
    edits = dict(_edit(each) for each in edit or ())
    given = None if inputs is None else typed.as_object(inputs, "--inputs")
    with open_control(db_url) as control:
        run_id = control.id_of(run_id)
        again = control.made_again(run_id, at, edit=edits)
        if dry_run:
            _print_plan(again, as_json)
            return
        is_there = new_id is not None and control.status_of(new_id) is not None
        if again and not (is_there or yes) and is_terminal():
            typer.echo(_told(again), err=True)
            typer.confirm("Fork it?", abort=True, err=True)

        def do(even_if_forked: bool) -> str:
            return control.fork(
                run_id,
                at,
                inputs=given,
                edit=edits,
                version=version,
                by=by,
                fork_id=new_id,
                even_if_forked=even_if_forked,
            )

        fork_id = asked_if_forked(do, even_if_forked, "fork", not yes)
        fork = control.run(fork_id)
    if as_json:
        told = {"run_id": fork_id, "forked_from": run_id}
        typer.echo(as_json_text(told if is_there else {**told, "made_again": asdict(again)}))
    elif is_there:
        typer.echo(f"{plain(fork_id)} is a fork of {plain(run_id)} already. None is begun.")
    else:
        typer.echo(f"{plain(fork_id)} is a fork of {plain(run_id)}. {_told(again)}")
        typer.echo(_taken_by(fork))


def _taken_by(fork: Run) -> str:
    """Who carries it out, as far as the database says."""
    if fork.reason and fork.state == "queued":
        return f"Queued. {plain(fork.reason[0].upper() + fork.reason[1:])}."
    if fork.reason:
        return f"It is {fork.state}: {plain(fork.reason)}"
    return "It is queued, and a worker takes it." if fork.state == "queued" else "It is begun."


def _print_plan(again: MadeAgain, as_json: bool) -> None:
    typer.echo(as_json_text({"made_again": asdict(again)}) if as_json else _told(again))


def _told(again: MadeAgain) -> str:
    if not again:
        return "Nothing that is recorded is made again."
    return f"Made again: {plain(again)}. Their effects happen again."


def _edit(text: str) -> tuple[str, Any]:
    place, mark, value = text.partition("=")
    if not mark or not place:
        raise typed.refused(f"--edit {text!r} is not PLACE=VALUE.")
    if not value.startswith("@"):
        return place, _json_or_text(value, f"--edit {place}")
    file = Path(value[1:])
    content = typed.content(file, f"--edit {place}")
    return place, typed.as_json(content, str(file)) if file.suffix == ".json" else content


def _json_or_text(text: str, what: str) -> Any:
    """JSON, or a text without quotes, which a shell takes away."""
    if not text:  # a variable that is not set
        raise typed.refused(f"{what} has no value. An empty text is '\"\"'.")
    try:
        return json.loads(text)
    except ValueError:
        # Meant as an object; stored as a text it would be one that nobody can read.
        return typed.as_json(text, what) if text.startswith("{") else text
