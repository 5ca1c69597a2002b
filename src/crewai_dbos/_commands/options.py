"""What the commands have in common: the database, its errors, and how times are shown."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any

import typer
from dbos import Serializer
from sqlalchemy.exc import SQLAlchemyError

from crewai_dbos._dbos_seam import unreachable
from crewai_dbos._dbos_seam.database import sqlite_files
from crewai_dbos.control import Control
from crewai_dbos.errors import (
    AnswerError,
    CrewaiDbosError,
    DefinitionError,
    RunNotFoundError,
    RunStateError,
)

KEYS = "CREWAI_DBOS_KEYS"
"""The environment variable with the keys of an application that encrypts."""

SCHEMA: ContextVar[str | None] = ContextVar("schema", default=None)
"""What ``crewai-dbos --schema`` was given; Typer hands a command no options of the one above."""


def _or_of_group(context: typer.Context, db_url: str | None) -> str | None:
    """The ``--db-url`` of a command; one that is typed before it comes before the environment."""
    group = context.parent
    if group is None or _is_typed(context) or not _is_typed(group):
        return db_url
    return str(group.params["db_url"])


def _is_typed(context: Any) -> bool:
    source = context.get_parameter_source("db_url")
    return source is not None and source.name == "COMMANDLINE"


Url = Annotated[
    str | None,
    typer.Option(
        "--db-url",
        "-s",
        envvar="DBOS_SYSTEM_DATABASE_URL",
        callback=_or_of_group,
        help="The database that DBOS keeps its workflows in.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


RunId = Annotated[str, typer.Argument(metavar="ID", help="Of the run; its first letters will do.")]
RunIds = Annotated[
    list[str], typer.Argument(metavar="ID", help="Of runs; their first letters will do.")
]


def serializer() -> Serializer | None:
    """What reads an application that encrypts; None if the environment has no keys.

    Raises:
        DefinitionError: The keys can't be read.
    """
    if not os.environ.get(KEYS, "").strip():
        return None
    try:
        from crewai_dbos.encryption import EncryptedSerializer

        return EncryptedSerializer.from_environment(KEYS)
    except (ImportError, ValueError) as error:
        raise DefinitionError(f"{KEYS} is set, and can't be used: {error}") from None


def some_database(db_url: str | None) -> str:
    """`db_url`, if one was given.

    Raises:
        DefinitionError: None was.
    """
    if db_url:
        return db_url
    here = sqlite_files(Path())
    if len(here) == 1:
        known = f"There is one in this folder: --db-url {shlex.quote(f'sqlite:///{here[0]}')}"
    else:
        known = "--db-url sqlite:///app.sqlite names one, or postgresql://user@host/database"
    raise DefinitionError(
        f"Which database? {known}. Or set DBOS_SYSTEM_DATABASE_URL to the system_database_url of "
        "the application's DBOS config."
    )


@contextmanager
def open_control(db_url: str | None) -> Iterator[Control]:
    """The database; what is not there or not open ends the command with 1, a bad call with 2."""
    try:
        url, schema = some_database(db_url), SCHEMA.get() or "dbos"
        with Control(url, schema=schema, serializer=serializer()) as control:
            yield control
    except (AnswerError, RunNotFoundError, RunStateError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    except CrewaiDbosError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    except SQLAlchemyError as error:
        typer.echo(what_failed(error), err=True)
        raise typer.Exit(2) from None


def what_failed(error: BaseException) -> str:
    """An error in words. One of the database has its address in it, and maybe a password."""
    if unreachable.is_forbidden(error):
        return f"The role of the database's URL may not do that: {unreachable.told(error)}"
    if isinstance(error, SQLAlchemyError):
        return f"The database can't be reached: {type(error).__name__}"
    return str(error) if isinstance(error, CrewaiDbosError) else type(error).__name__


def as_json_text(value: Any) -> str:
    """`value` as JSON, times in ISO 8601."""
    return json.dumps(value, indent=2, default=datetime.isoformat)


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


_SIZES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def duration(text: str) -> timedelta:
    """What ``90m``, ``12h``, ``30d`` stands for."""
    found = re.fullmatch(r"(\d{1,6})([smhdw])", text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration; say 90m, 12h, 30d or 4w.")
    return timedelta(seconds=int(found[1]) * _SIZES[found[2]])


def moment(text: str) -> datetime:
    """What ``2h``, which is so long ago, or ``2026-11-29T12:00`` stands for."""
    try:
        if re.fullmatch(r"\d+[smhdw]", text.strip()):
            return datetime.now(timezone.utc) - duration(text)
        return datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no time; say 2h for two hours ago, or 2026-11-29T12:00."
        ) from None
