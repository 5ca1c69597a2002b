"""``crewai-dbos runs kickoff``: a run of a crew or a flow that a worker has."""

from __future__ import annotations

from typing import Annotated

import typer

from crewai_dbos._commands import typed
from crewai_dbos._commands.options import AsJson, Url, as_json_text, open_control
from crewai_dbos._printable import plain
from crewai_dbos.control import Control
from crewai_dbos.errors import MissingDefinitionError, RunConflictError


def kickoff(
    definition: Annotated[
        str, typer.Argument(metavar="NAME", help="Of a DBOSCrew or a DBOSFlow that a worker has.")
    ],
    inputs: Annotated[
        str | None,
        typer.Option(metavar="JSON | @FILE", help="Of the kickoff: an object, or a file with one."),
    ] = None,
    run_id: Annotated[
        str | None, typer.Option("--id", help="Of the run. Asked for again, it is one run.")
    ] = None,
    queue: Annotated[
        str | None, typer.Option(help="The name of a DBOS queue; by default DBOS's own.")
    ] = None,
    db_url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Begin a run of a crew or a flow. A worker that has it takes the run; prints the run's id.

    Whether the inputs are those that it wants, the run shows. Exits with 1 if no worker that lives
    has it, or the id is that of another run.
    """
    given = None if inputs is None else typed.as_object(inputs, "--inputs")
    with open_control(db_url) as control:
        try:
            run_id = control.kickoff(definition, given, run_id=run_id, queue=queue)
        except MissingDefinitionError as error:
            typer.echo(f"{error} {_offered(control)}", err=True)
            raise typer.Exit(1) from None
        except RunConflictError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from None
    typer.echo(as_json_text({"run_id": run_id}) if as_json else plain(run_id))


def _offered(control: Control) -> str:
    """What there is in its place."""
    names = control.definitions()
    if not names:
        return "There are none: crewai-dbos workers says which workers there are."
    return f"There are {', '.join(map(plain, names))}."
