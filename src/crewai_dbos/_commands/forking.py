"""``crewai-dbos runs fork``: a run again from a place in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from crewai_dbos._commands.options import AsJson, RunId, Url, open_control


def fork(
    run_id: RunId,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="Made again, with what depends on it: task:2, task:write, method:draft#2, or a "
            "name of its journal. Without it and --edit, everything is.",
        ),
    ] = None,
    edit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLACE=JSON",
            help="A result to go on with; PLACE=@FILE for the text in a file, or JSON in a .json.",
        ),
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Other inputs, for a fork that keeps nothing."),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(help="The application version that takes it; by default the newest."),
    ] = None,
    by: Annotated[str | None, typer.Option(help="Who does it; by default your user name.")] = None,
    db_url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Begin a new run with what another has recorded, less what depends on a place in it.

    The other run stays as it is. Exits with 2 if it can't be forked so.
    """
    edits = dict(_edit(each) for each in edit or ())
    given = None if inputs is None else _json(inputs, "--inputs")
    if given is not None and not isinstance(given, dict):
        raise _bad("--inputs is no JSON object.")
    with open_control(db_url) as control:
        run_id = control.id_of(run_id)
        fork_id = control.fork(run_id, at, inputs=given, edit=edits, version=version, by=by)
    if as_json:
        typer.echo(json.dumps({"run_id": fork_id, "forked_from": run_id}, indent=2))
    else:
        typer.echo(f"{fork_id} is a fork of {run_id}. A worker takes it from the queue.")


def _edit(text: str) -> tuple[str, Any]:
    place, mark, value = text.partition("=")
    if not mark or not place:
        raise _bad(f"--edit {text!r} is not PLACE=JSON.")
    if not value.startswith("@"):
        return place, _json(value, f"--edit {place}")
    file = Path(value[1:])
    try:
        content = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _bad(f"--edit {place}: {file} can't be read: {error}") from None
    return place, _json(content, str(file)) if file.suffix == ".json" else content


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise _bad(f"{what} is not JSON ({error}). A text has quotes: '\"...\"'") from None


def _bad(message: str) -> typer.Exit:
    typer.echo(message, err=True)
    return typer.Exit(2)
