"""What a command asks at a terminal before it does something that may not be wanted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from crewai_dbos._printable import plain
from crewai_dbos.errors import RunForkedError

T = TypeVar("T")

EvenIfForked = Annotated[
    bool,
    typer.Option(
        "--even-if-forked",
        help="Also if a fork makes what was left of it, or has: it is made a second time.",
    ),
]


def is_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty()


def asked_if_forked(do: Callable[[bool], T], even_if_forked: bool, verb: str, ask: bool) -> T:
    """What `do` returns, given whether it is to go on although a fork does.

    Args:
        even_if_forked: What the command was told.
        verb: What is done with the run.
        ask: Whether somebody may be asked; at a terminal only.

    Raises:
        RunForkedError: There is such a fork, and nobody has said that it does not matter.
    """
    try:
        return do(even_if_forked)
    except RunForkedError as error:
        forks = ", ".join(error.forks)
        told = (
            f"{error.workflow_id} is forked already, as {forks}: what was left of it is made a "
            f"second time then. {verb.capitalize()} it all the same?"
        )
        if not (ask and is_terminal() and typer.confirm(plain(told), err=True)):
            raise
        return do(True)
