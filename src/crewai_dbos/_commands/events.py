"""``crewai-dbos runs events``: what happened in a run, and what happens."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.markup import escape

from crewai_dbos._commands import tables
from crewai_dbos._commands.options import AsJson, RunId, Url, open_control
from crewai_dbos._printable import plain
from crewai_dbos.control import Event

_COLOURS = {"failed": "red", "abandoned": "yellow", "started": "dim", "opened": "cyan"}


def events(
    run_id: RunId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for more, until the run has ended.")
    ] = False,
    after: Annotated[int, typer.Option(metavar="N", help="Only those after this number.")] = 0,
    db_url: Url = None,
    as_json: AsJson = False,
) -> None:
    """What happened in a run, one event a line. With --json each line is an object."""
    console = tables.console()
    told = False
    with open_control(db_url) as control:
        for event in control.events(control.id_of(run_id), after, follow=follow):
            told = True
            if as_json:
                typer.echo(json.dumps(event.as_json()))
            else:
                console.print(_line(event), no_wrap=True, overflow="ellipsis")
    if not told and not as_json and not after:
        typer.echo("It has no events. A definition with events=True leaves some.", err=True)


def _line(event: Event) -> str:
    when = event.at.astimezone().strftime("%H:%M:%S")
    what = event.type if event.data.get("status") != "failed" else f"{event.type} (failed)"
    colour = _COLOURS.get("failed" if event.data.get("status") == "failed" else _phase(event.type))
    facts = [
        f"{name}={item}"
        for name, item in event.data.items()
        if name in ("error", "seconds", "model", "by", "pieces")
    ]
    if isinstance(tokens := event.data.get("tokens"), dict):
        facts.append(f"tokens={tokens.get('total')}")
    text = f"{event.seq:>5} {when} {what:<18} {event.path}"
    line = escape(plain("  ".join([text, *facts])))
    return f"[{colour}]{line}[/]" if colour else line


def _phase(type_: str) -> str:
    return type_.partition(".")[2]
