"""The database of an application, opened beside it."""

from __future__ import annotations

import os
from typing import Any

from dbos import DBOSClient, Serializer
from sqlalchemy.exc import SQLAlchemyError

from crewai_dbos._dbos_seam.database import Database, database_of
from crewai_dbos.errors import DefinitionError


def opened(
    url: str | None, schema: str, serializer: Serializer | None
) -> tuple[DBOSClient, Database]:
    """A client of DBOS's for the database, and the database.

    Args:
        url: As of a `Control`.
        schema: Where DBOS's tables are, on Postgres.
        serializer: The application's.

    Raises:
        DefinitionError: There is no URL, or no database of DBOS's.
    """
    url = url or os.environ.get("DBOS_SYSTEM_DATABASE_URL")
    if not url:
        raise DefinitionError(
            "Which database? Control('sqlite:///app.sqlite'), or set DBOS_SYSTEM_DATABASE_URL "
            "to the system_database_url of the application's DBOS config."
        )
    _check_there(url)
    options: dict[str, Any] = {} if serializer is None else {"serializer": serializer}
    try:
        client = DBOSClient(
            system_database_url=url,
            dbos_system_schema=schema,
            retry_connection_errors=False,
            lazy=True,  # what is wrong with it is said below
            **options,
        )
    except SQLAlchemyError:
        raise DefinitionError(
            "That is no URL of a database: it is sqlite:///app.sqlite, or "
            "postgresql://user@host/database."
        ) from None
    database = database_of(client)
    try:
        known = database.has_runs()
    except SQLAlchemyError as error:
        client.destroy()
        raise DefinitionError(
            f"The database can't be reached: {type(error).__name__}. Look at its URL, and "
            "whether the server is there."
        ) from None
    if not known:
        client.destroy()
        raise DefinitionError(
            "That is no database of DBOS's: it has no workflows. Give the system_database_url "
            "of the application's DBOS config; the application makes it when it is launched."
        )
    return client, database


def _check_there(url: str) -> None:
    """Refuse a file that is not there: SQLite would make an empty one."""
    prefix = "sqlite:///"
    if url.startswith(prefix) and not os.path.exists(url.removeprefix(prefix).partition("?")[0]):
        raise DefinitionError(
            f"There is no database {url.removeprefix(prefix)!r}. It is made by the application "
            "when it launches DBOS; a relative path is one from where this process was started."
        )
