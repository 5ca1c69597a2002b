"""``crewai-dbos migrate``: the tables of DBOS and of this package, made beforehand."""

from __future__ import annotations

from typing import Annotated

import typer
from dbos import DBOS
from dbos import error as dbos_errors
from sqlalchemy.exc import SQLAlchemyError

from crewai_dbos import _tables
from crewai_dbos._commands.options import SCHEMA, Url, some_database
from crewai_dbos._control.opening import opened
from crewai_dbos._dbos_seam import unreachable
from crewai_dbos.errors import CrewaiDbosError


def migrate(
    db_url: Url = None,
    app_role: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE", help="Of Postgres: it may read and write the tables afterwards."
        ),
    ] = None,
) -> None:
    """Make the tables of DBOS and of this package, or bring them up to date. Any number of times.

    Workers and Control do so themselves; this is for a database in which their role may not.
    """
    try:
        url, schema = some_database(db_url), SCHEMA.get() or "dbos"
        # It also lets the role use what the one that runs this makes later in the schema.
        DBOS.migrate(url, schema=schema, application_role=app_role)
        client, database = opened(url, schema, None)
        try:
            _tables.migrate(database)
        finally:
            client.destroy()
    except CrewaiDbosError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    except (SQLAlchemyError, dbos_errors.DBOSException) as error:
        typer.echo(f"The tables can't be made: {unreachable.told(error)}", err=True)
        raise typer.Exit(2) from None
    typer.echo("The tables are those of this release.")
