"""What the commands have in common: the database, its errors, and how times are shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Annotated

import typer

from crewai_dbos.control import Control
from crewai_dbos.errors import AnswerError, CrewaiDbosError, RunNotFoundError, RunStateError

Url = Annotated[
    str | None,
    typer.Option(
        "--db-url",
        "-s",
        envvar="DBOS_SYSTEM_DATABASE_URL",
        help="The database that DBOS keeps its workflows in.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@contextmanager
def open_control(db_url: str | None) -> Iterator[Control]:
    """The database; an error that it has to tell ends the command with 1, a bad call with 2."""
    try:
        with Control(db_url) as control:
            yield control
    except (AnswerError, RunNotFoundError, RunStateError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    except CrewaiDbosError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


def ago(when: datetime | None) -> str:
    """A time as seen from now: ``5m ago``, ``in 3d``."""
    if when is None:
        return ""
    seconds = (when - datetime.now(timezone.utc)).total_seconds()
    size, unit = next(
        (size, unit)
        for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
        if abs(seconds) >= size or unit == "s"
    )
    count = f"{abs(seconds) // size:.0f}{unit}"
    return f"in {count}" if seconds > 0 else f"{count} ago"
