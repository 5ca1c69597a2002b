"""``crewai-dbos runs move``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import typer

from crewai_dbos._commands.asking import EvenIfForked
from crewai_dbos._commands.each import Refused, one_by_one
from crewai_dbos._commands.options import AsJson, Url, open_control
from crewai_dbos._printable import plain
from crewai_dbos.control import Control, Moves


def move(
    run_ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="Of runs; the first letters will do."),
    ] = None,
    all_of_version: Annotated[
        str | None,
        typer.Option(metavar="OLD", help="All of this version that have not ended."),
    ] = None,
    version: Annotated[
        str | None, typer.Option(metavar="NEW", help="Where to; by default the newest.")
    ] = None,
    even_if_running: Annotated[
        bool,
        typer.Option(
            "--even-if-running",
            help="Also what a process is at, or may be: its calls in flight are made again.",
        ),
    ] = False,
    even_if_forked: EvenIfForked = False,
    by: Annotated[str | None, typer.Option(help="Who; by default your user name.")] = None,
    db_url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Let runs go on under another application version, each under its id.

    Exits with 1 if one of them can't be moved as it stands; the others are.
    """
    if bool(run_ids) == (all_of_version is not None):
        raise typer.BadParameter("Say which runs, by their ids or with --all-of-version.")
    with open_control(db_url) as control:
        if all_of_version is not None:
            moves = control.move_all(
                all_of_version,
                version=version,
                even_if_running=even_if_running,
                even_if_forked=even_if_forked,
                by=by,
            )
            _print(moves, as_json)
        else:

            def do(run_id: str) -> Moves:
                return control.move(
                    run_id,
                    version=version,
                    even_if_running=even_if_running,
                    even_if_forked=even_if_forked,
                    by=by,
                )

            moves = _each(control, run_ids or [], do, as_json)
    raise typer.Exit(1 if moves.refused else 0)


def _each(control: Control, begins: list[str], do: Callable[[str], Moves], as_json: bool) -> Moves:
    """Move runs, by the first letters of their ids, and print what is known, in any case.

    Raises:
        DefinitionError: There is no such version, of any of them.
    """
    moved: list[str] = []
    kept: dict[str, str] = {}
    refused: dict[str, str] = {}

    def unless_moved(run_id: str) -> Moves:
        return Moves() if run_id in moved else do(run_id)  # it may have gone with another

    try:
        for each in one_by_one(control, begins, unless_moved):
            if isinstance(each, Refused):
                refused[each.given] = each.why
            else:
                moved += each.value.moved
                kept.update(each.value.kept)
                refused.update(each.value.refused)
    finally:
        moves = Moves(tuple(moved), kept, refused)
        if moved or kept or refused:
            _print(moves, as_json)
    return moves


def _print(moves: Moves, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(moves), indent=2))
        return
    for run_id in moves.moved:
        typer.echo(plain(run_id))
    for told in moves.kept.values():
        typer.echo(plain(told), err=True)
    for told in moves.refused.values():
        typer.echo(plain(told), err=True)
    count = len(moves.moved)
    typer.echo(f"{count} {'run is' if count == 1 else 'runs are'} moved.", err=True)
