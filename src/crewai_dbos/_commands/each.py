"""A verb that is said of several runs: what can't be done with one holds up none of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import typer

from crewai_dbos._commands.options import as_json_text, plain
from crewai_dbos.control import Control
from crewai_dbos.errors import RunNotFoundError, RunStateError, SealedError


def each(
    control: Control,
    begins: Sequence[str],
    do: Callable[[str], str],
    done: str,
    as_json: bool,
) -> None:
    """Do something with each run, and say of each what became of it.

    As JSON that is one object: ``{"run_id": ...}`` of a single run, or else the ids under `done`,
    and under ``refused`` why, by what was given.

    Args:
        begins: Their ids, or the first letters.
        do: What is done with one; returns what is said of it.
        done: What the runs are then: ``cancelled``.

    Raises:
        typer.Exit: With 1, at the end, if a run was refused.
    """
    did: list[str] = []
    refused: dict[str, str] = {}
    several = len(begins) > 1
    for given in dict.fromkeys(begins):
        try:
            run_id = control.id_of(given)
            if run_id in did:
                continue
            told = do(run_id)
        except (RunNotFoundError, RunStateError, SealedError) as error:
            refused[given] = str(error)
            if not (as_json and several):
                typer.echo(plain(error), err=True)
            continue
        did.append(run_id)
        if not as_json:
            typer.echo(plain(told))
    if as_json and several:
        typer.echo(as_json_text({done: did, "refused": refused}))
    elif as_json and did:
        typer.echo(as_json_text({"run_id": did[0]}))
    elif several:
        typer.echo(f"{len(did)} {done}, {len(refused)} refused.", err=True)
    if refused:
        raise typer.Exit(1)
