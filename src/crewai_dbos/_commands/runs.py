"""``crewai-dbos runs``: what runs there are, and what is in one."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from typing import Annotated

import typer
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from crewai_dbos._commands import tables
from crewai_dbos._commands.examples import example
from crewai_dbos._commands.options import (
    AsJson,
    RunId,
    Url,
    ago,
    as_json_text,
    duration,
    moment,
    open_control,
)
from crewai_dbos._commands.tables import Column, Facts, Table
from crewai_dbos._control.run import error_of_its_own
from crewai_dbos._printable import plain
from crewai_dbos._stored.prices import dollars
from crewai_dbos.control import Control, Node, Page, Run, State

app = typer.Typer(
    help="Begin runs, see them, stop them, let them go on, fork them, and delete old ones. "
    "Exits with 0 if all is well; with 1 if there is no such run, it is in no state for that, or "
    "the run that is watched did not end well; with 2 if it was not called as it can be, or the "
    "database can't be reached.",
    no_args_is_help=True,
)

Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")]
Cursor = Annotated[str | None, typer.Option(help="Go on after this page.")]

_COLOURS: dict[State, str] = {
    "queued": "dim",
    "running": "blue",
    "interrupted": "blue",
    "waiting": "cyan",
    "waking": "cyan",
    "done": "green",
    "failed": "red",
    "cancelled": "dim",
    "stopped": "bold yellow",
    "stranded": "bold yellow",
}
"""Red has failed, yellow needs somebody who runs it, cyan somebody who answers."""

_OVER = ("done", "failed", "cancelled", "stopped")
_LOOK = 1.0
"""Seconds between two looks of `watch`."""


@app.command("list", epilog=example("runs list"))
def list_runs(
    definition: Annotated[
        str | None, typer.Option("--definition", "-d", help="Only runs of this agent, crew, flow.")
    ] = None,
    state: Annotated[
        str | None, typer.Option(help=f"Only those that are {', '.join(_COLOURS)}.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="Only agent, crew, flow, batch or workflow.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="2h | TIME", help="Only those created since then.")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Only those of this application version.")
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    db_url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Runs, the newest first."""
    begun = None if since is None else moment(since)
    with open_control(db_url) as control:
        page = control.runs(
            definition=definition,
            state=state,  # type: ignore[arg-type]  # an unknown one is refused there
            kind=kind,
            since=begun,
            version=version,
            limit=limit,
            cursor=cursor,
        )
    # Of these the reason says what to do.
    whole = state in ("stopped", "stranded")
    _print_page(page, as_json, "There is no such run.", whole_reason=whole)


@app.command(epilog=example("runs stranded"))
def stranded(
    limit: Limit = 50, cursor: Cursor = None, db_url: Url = None, as_json: AsJson = False
) -> None:
    """Runs that nobody goes on with, and why."""
    with open_control(db_url) as control:
        page = control.stranded(limit=limit, cursor=cursor)
    _print_page(page, as_json, "No run is stranded.", whole_reason=True)


@app.command(epilog=example("runs show"))
def show(run_id: RunId, db_url: Url = None, as_json: AsJson = False) -> None:
    """One run: how it stands, and what it has done."""
    with open_control(db_url) as control:
        run = control.run(run_id)
    if as_json:
        typer.echo(as_json_text(asdict(run)))
    else:
        tables.show(tables.console(), _whole(run))


@app.command(epilog=example("runs watch"))
def watch(run_id: RunId, db_url: Url = None, as_json: AsJson = False) -> None:
    """One run, as it goes on, until it has ended. With --json a line for each change."""
    console = tables.console()
    with open_control(db_url) as control:
        if sys.stdout.isatty() and not as_json:
            run = _watch_live(control, run_id, console)
        else:
            run = _watch_in_lines(control, run_id, _json_line if as_json else _line)
    raise typer.Exit(0 if run.state == "done" else 1)


@app.command(epilog=example("runs prune"))
def prune(
    older_than: Annotated[
        str, typer.Option(metavar="30d", help="Those that have ended so long ago.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    db_url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Delete runs that are done, failed or cancelled, with all that is stored of them."""
    age = duration(older_than)
    if not (dry_run or yes):
        if not sys.stdin.isatty():
            raise typer.BadParameter("Nobody can be asked here: say --yes, or --dry-run.")
        asked = f"Delete what has ended {older_than} ago or before?"
        typer.confirm(asked, abort=True, err=True)  # the answer alone is the output
    with open_control(db_url) as control:
        gone = control.prune(age, dry_run=dry_run)
    if as_json:
        typer.echo(as_json_text(gone))
        return
    if dry_run:
        for each in gone:
            typer.echo(plain(each))
    typer.echo(f"{len(gone)} {'runs would be' if dry_run else 'runs are'} deleted.", err=dry_run)


# Lists --------------------------------------------------------------------------------

_AT_WORK = ("running", "interrupted", "waiting")
"""The states of runs of which it is of use to know the process."""


def _print_page(page: Page, as_json: bool, none: str, *, whole_reason: bool = False) -> None:
    if as_json:
        typer.echo(as_json_text({"runs": [asdict(run) for run in page], "cursor": page.cursor}))
        return
    console = tables.console()
    if not page:
        console.print(none)
        return
    tables.show(console, _table(page.runs, whole_reason))
    if page.cursor is not None:
        typer.echo(f"There are more: --cursor {plain(page.cursor)}", err=True)  # no row of a list


def _table(runs: Sequence[Run], whole_reason: bool) -> Table:
    table = Table(
        (
            Column("id"),
            Column("definition", 1, least=12),
            Column("state"),
            Column("age", 2, is_number=True),
            Column("took", 4, is_number=True),
            Column("tokens", 5, is_number=True),
            Column("version", 3, least=10),
            Column("executor", 6),
        ),
        note="why",
        is_whole=whole_reason,
    )
    several = len({run.version for run in runs if run.version is not None}) > 1
    for run in runs:
        table.row(
            plain(run.run_id),
            plain(run.definition or run.kind),
            Text(run.state, _COLOURS[run.state]),
            ago(run.created).removesuffix(" ago"),
            _took(run.seconds),
            _count(run.new_tokens),
            plain(run.version or "") if several else "",
            plain(run.executor or "") if run.state in _AT_WORK else "",
            note=plain(run.error or run.reason or ""),
        )
    return table


def _took(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24}d{hours % 24:02}h"
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


def _of_it(run: Run) -> str:
    """How much of the time of a run it was in a queue, and in calls; nothing if that is all."""
    queued, rest = run.queued or 0, (run.seconds or 0) - (run.in_calls or 0)
    parts = [f"{_took(queued)} of it in a queue"] if queued >= 1 else []
    parts += [f"{_took(run.in_calls)} in calls"] if rest >= 1 else []
    return "".join(f", {part}" for part in parts)


def _count(tokens: int) -> str:
    if tokens < 10_000:
        return str(tokens) if tokens else ""
    return f"{tokens / 1000:.0f}k" if tokens < 1_000_000 else f"{tokens / 1_000_000:.1f}M"


# One ------------------------------------------------------------------------------------


def _whole(run: Run) -> RenderableType:
    """What is said of a run, and what is in it."""
    head = Facts(
        (
            ("run", Text(plain(run.run_id), "bold")),
            ("definition", plain(" ".join(filter(None, (run.kind, run.definition))))),
            ("state", Text(run.state, _COLOURS[run.state])),
            ("why", plain(run.reason or "")),
            ("error", Text(plain(run.error or ""), "red")),
            *_times(run),
            ("took", _took(run.seconds) + _of_it(run)),
            ("tokens", _tokens(run)),
            ("cost", _cost(run)),
            ("started by", plain(run.parent or "")),
            ("fork of", plain(run.forked_from or "")),
            ("forked as", ", ".join(f"{plain(f.run_id)} ({f.state})" for f in run.forks)),
            ("version", plain(run.version or "")),
            ("executor", plain(run.executor or "")),
            ("taken over", _taken_over(run)),
        )
    )
    return Group(head, Text(), _tree(run.children)) if run.children else head


def _times(run: Run) -> Iterator[tuple[str, str]]:
    """When it was asked for, begun, and begun again, where these are several times."""
    begun = run.begun
    if begun is None or run.queue is not None or (run.queued or 0) >= 1:
        queue = "" if run.queue is None else f" (queue {plain(run.queue)})"
        yield "queued", f"{_time(run.created)}{queue}"
    if begun is not None:
        yield "started", _time(begun)
        if run.started is not None and run.started - begun >= timedelta(seconds=1):
            yield "went on", _time(run.started)


def _taken_over(run: Run) -> str | None:
    if run.taken_from is None or run.taken_at is None:
        return None
    return f"from {plain(run.taken_from)} at {_time(run.taken_at)}"


def _time(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S} UTC, {ago(when)}"


def _tokens(run: Run) -> str:
    told = f"{run.tokens.total:,} in {run.tokens.requests:,} requests"
    if not run.taken_over.requests:
        return told
    return f"{told}: new {run.new_tokens:,}, taken over {run.taken_over.total:,}"


def _cost(run: Run) -> str | None:
    if run.cost is None:
        return None
    if not run.taken_over.requests:
        return dollars(run.cost)
    new, taken_over = dollars(run.new_cost), dollars(run.taken_over_cost)
    return f"{dollars(run.cost)}: new {new}, taken over {taken_over}"


def _tree(children: Sequence[Node]) -> Table:
    every = list(_guided(children))
    # Some are runs, whose ids are whole. The name of anything else may be very long.
    ids = [cell_len(guide + node.name) for guide, node in every if node.path == node.name]
    table = Table(
        (
            Column("name", least=max([20, *ids])),
            Column("state"),
            Column("took", 1, is_number=True),
            Column("tokens", 2, is_number=True),
        ),
        note="error",
        is_whole=True,
        has_heading=False,
    )
    for guide, node in every:
        name = Text(guide, "dim").append(plain(node.name), "dim" if node.replayed else "")
        if node.attempts > 1:
            name.append(f" ({node.attempts} attempts)", "yellow")
        if node.edited_by is not None:
            name.append(f" (edited by {plain(node.edited_by)})", "magenta")
        told = "recorded" if node.replayed and node.state == "done" else node.state
        table.row(
            name,
            Text(told, "dim" if told == "recorded" else _COLOURS[node.state]),
            _took(node.seconds),
            _count(node.tokens.total),
            note=Text(plain(error_of_its_own(node) or ""), "red"),
            under=_below(guide, node),
        )
    return table


def _guided(nodes: Sequence[Node], before: str = "") -> Iterator[tuple[str, Node]]:
    """Each node with the lines that lead to it."""
    for position, node in enumerate(nodes):
        last = position == len(nodes) - 1
        yield f"{before}{'└ ' if last else '├ '}", node
        yield from _guided(node.children, f"{before}{'  ' if last else '│ '}")


def _below(guide: str, node: Node) -> str:
    """What a line between a node and the next begins with, which explains it."""
    passed = guide.replace("├ ", "│ ").replace("└ ", "  ")
    return passed + ("│ " if node.children else "  ")


# Watching -------------------------------------------------------------------------------


def _watch_live(control: Control, run_id: str, console: Console) -> Run:
    """The run as it stands, over and over at one place, where what is too long is broken."""
    run = control.run(run_id)
    try:
        with Live(_whole(run), console=console, auto_refresh=False, transient=True) as live:
            while run.state not in _OVER:
                time.sleep(_LOOK)
                run = control.run(run.run_id)
                live.update(_whole(run), refresh=True)
    finally:
        tables.show(console, _whole(run))
    return run


def _watch_in_lines(control: Control, run_id: str, line: Callable[[str, str, str], str]) -> Run:
    """A line for all that ends, and whenever the run stands otherwise."""
    told: set[tuple[str, str]] = set()
    stood: tuple[str, str] | None = None

    def tell(what: str, state: str, more: str) -> None:
        typer.echo(line(what, state, more.strip()))

    while True:
        run = control.run(run_id)
        run_id = run.run_id
        for _, node in _guided(run.children):
            ended = (node.path, node.state)
            if node.state != "running" and not node.children and ended not in told:
                told.add(ended)
                tell(node.path, node.state, f"{_took(node.seconds)} {node.error or ''}")
        stands = (run.state, run.error or run.reason or "")  # it may wait several times
        if stands != stood:
            stood = stands
            tell(run.run_id, *stands)
        if run.state in _OVER:
            return run
        time.sleep(_LOOK)


def _line(what: str, state: str, more: str) -> str:
    return f"{datetime.now():%H:%M:%S} {state:9} {plain(what)} {plain(more)}".rstrip()


def _json_line(what: str, state: str, more: str) -> str:
    now = datetime.now(timezone.utc).isoformat()
    return json.dumps({"at": now, "what": what, "state": state, "more": more})
