"""``crewai-dbos runs cost`` and ``raise-budget``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from crewai_dbos import _command_lines
from crewai_dbos._commands import tables
from crewai_dbos._commands.options import AsJson, RunId, Url, as_json_text, open_control
from crewai_dbos._printable import plain
from crewai_dbos._stored.prices import dollars
from crewai_dbos.control import Cost, Tokens


def cost(run_id: RunId, db_url: Url = None, as_json: AsJson = False) -> None:
    """What the LLM requests of a run have cost until now, by model."""
    with open_control(db_url) as control:
        run_id = control.id_of(run_id)
        found = control.cost_of(run_id)
    if as_json:
        models = [{"model": model, **asdict(used)} for model, used in found.models.items()]
        typer.echo(as_json_text({"run_id": run_id, **asdict(found), "models": models}))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold")
    for column in ("requests", "sent", "cached", "answered", "tokens"):
        table.add_column(column, justify="right")
    for model, used in found.models.items():
        table.add_row(plain(model or "unknown"), *_figures(used))
    if len(found.models) != 1:
        table.add_row("all", *_figures(found.tokens))
    if found.taken_over.requests:
        table.add_row("of it taken over", *_figures(found.taken_over))
    console = tables.console()
    console.print(table)
    if found.usd is not None:
        console.print(dollars(found.usd) + _taken_over(found))
    else:
        unpriced = ", ".join(map(plain, found.unpriced)) or "some of them"
        console.print(f"What that is in money is not known: there is no price of {unpriced}.")


def raise_budget(
    run_id: RunId,
    tokens: Annotated[int | None, typer.Option(help="Its new limit in tokens.")] = None,
    usd: Annotated[float | None, typer.Option(help="Its new limit in US dollars.")] = None,
    db_url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Let a run that has stopped at its budget cost more, once it is resumed."""
    if tokens is None and usd is None:
        raise typer.BadParameter("Give the new limit: --tokens or --usd.")
    with open_control(db_url) as control:
        run_id = control.id_of(run_id)
        control.raise_budget(run_id, tokens=tokens, usd=usd)
    if as_json:
        typer.echo(as_json_text({"run_id": run_id}))
    else:
        typer.echo(f"{run_id} may cost more. To go on: {_command_lines.resume(run_id)}")


def _taken_over(found: Cost) -> str:
    """What of the money another run has spent."""
    if not found.taken_over.requests:
        return ""
    return f", of it {dollars(found.taken_over_usd)} spent in the run that this is a fork of"


def _figures(used: Tokens) -> list[str]:
    figures = (used.requests, used.prompt, used.cached, used.completion, used.total)
    return [f"{figure:,}" for figure in figures]
