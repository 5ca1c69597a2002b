"""The command line, `crewai-dbos`. Commands import what they need when they run."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from contextlib import ExitStack, nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

try:
    import typer
except ImportError:
    sys.exit("The command line is an extra: pip install 'crewai-dbos[cli]'")

from crewai_dbos._commands import (
    cost,
    events,
    forking,
    inbox,
    moving,
    options,
    runs,
    serve,
    stopping,
    worker,
    workers,
)

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(inbox.app, name="inbox")
for command in (
    stopping.cancel,
    stopping.resume,
    moving.move,
    forking.fork,
    events.events,
    cost.cost,
    cost.raise_budget,
):
    runs.app.command()(command)
app.add_typer(runs.app, name="runs")
app.command()(worker.worker)
app.command()(serve.serve)
app.command()(workers.workers)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        for name in ("crewai-dbos", "crewai", "dbos"):
            typer.echo(f"{name} {metadata.version(name)}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_version, help="Print the versions and exit."
        ),
    ] = False,
    schema: Annotated[
        str | None,
        typer.Option(
            envvar="CREWAI_DBOS_SCHEMA",
            help="Where DBOS's tables are, on Postgres, if its config has a dbos_system_schema.",
        ),
    ] = None,
) -> None:
    """Durable execution for crewAI agents.

    Exits with 0 if all is well, with 1 if what was asked for is not there or did not go well, and
    with 2 if the command was not called as it can be, or the database can't be reached.
    """
    options.SCHEMA.set(schema)


@app.command()
def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the database and show where it is.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")
    ] = False,
) -> None:
    """Kill an agent in the middle of its work and see what the restart repeats.

    Runs offline, with a scripted model and SQLite in a temporary folder.
    """
    try:
        from rich.console import Console

        from crewai_dbos._demo import show, story
        from crewai_dbos._demo.process import ChildError
    except ImportError as error:
        if not _is_of_an_extra(error):
            raise
        raise _failed("The demo is an extra: pip install 'crewai-dbos[demo]'") from None

    began = time.monotonic()
    screen = show.Show(Console(highlight=False))
    with ExitStack() as stack:
        if keep:
            folder = Path(tempfile.mkdtemp(prefix="crewai-dbos-demo-"))
        else:
            temporary = tempfile.TemporaryDirectory(
                prefix="crewai-dbos-demo-", ignore_cleanup_errors=True
            )
            folder = Path(stack.enter_context(temporary))
        try:
            if as_json:
                outcome = story.run(folder, lambda _: None, lambda _: nullcontext())
            else:
                outcome = story.run(folder, screen.tell, screen.waiting)
        except ChildError as error:
            raise _failed(f"The demo failed. {error}") from None
    seconds = time.monotonic() - began
    if as_json:
        figures = {**asdict(outcome), "seconds": round(seconds, 1)}
        if keep:
            figures["database"] = str(story.database_path(folder))
        typer.echo(json.dumps(figures, indent=2))
        return
    screen.figures(outcome, seconds)
    if keep:
        screen.kept(folder, outcome.durable.steps)


@app.command()
def doctor(
    path: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:OBJECT", help="A DBOSFlow, DBOSCrew or DBOSAgent, or crewAI's own."
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON and nothing else.")
    ] = False,
) -> None:
    """Read a definition without running it: what is recorded, and what to put right.

    Exits with 1 if there is an error in it, and with 2 if the path leads nowhere.
    """
    from rich.console import Console

    from crewai_dbos import _import_path
    from crewai_dbos.doctor import Report, _load, _show, inspect

    _import_path.look_here()
    try:
        found, module = _load.load(path)
        report = inspect(found, module=module)
    except _load.BrokenDefinition as broken:
        report = Report(path, findings=(broken.finding,))
    except _import_path.NotFoundError as error:
        raise _failed(str(error), 2) from None
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=2))
    else:
        _show.show(report, Console(highlight=False))
    raise typer.Exit(1 if report.has_errors else 0)


@app.command()
def crashtest(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:DEFINITION",
            help="A DBOSFlow, DBOSCrew or DBOSAgent, or a function that runs one.",
        ),
    ],
    inputs: Annotated[
        str,
        typer.Option(
            metavar="JSON | @FILE | -",
            help="Keyword arguments of the run, as JSON, from a file or from standard input.",
        ),
    ] = "{}",
    model: Annotated[
        str | None,
        typer.Option(metavar="MODULE:SCRIPT", help="Answer its LLM requests with this script."),
    ] = None,
    people: Annotated[
        str | None,
        typer.Option(metavar="MODULE:SCRIPT", help="Answer what it asks people with this script."),
    ] = None,
    setup: Annotated[
        str | None,
        typer.Option(metavar="MODULE:FUNCTION", help="Call this before DBOS.launch()."),
    ] = None,
    left_behind: Annotated[
        str | None,
        typer.Option(metavar="MODULE:FUNCTION", help="Compare what this tells after the run."),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD", help="Do not compare this: result, state.<field> ..."),
    ] = None,
    database: Annotated[
        str, typer.Option(help="sqlite, or a URL of a Postgres server, for databases of our own.")
    ] = "sqlite",
    positions: Annotated[
        int | None, typer.Option(min=1, help="Kill at so many places instead of all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses which.")] = 0,
    asynchronous: Annotated[bool, typer.Option("--async", help="Call akickoff.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="A new interpreter each time: slower, nothing forked.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds after which a process is taken to hang.")
    ] = 60.0,
    at_once: Annotated[int, typer.Option(min=1, help="Runs at the same time.")] = 4,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")
    ] = False,
) -> None:
    """Kill a run at every entry of its journal, recover it, and compare.

    Exits with 1 if a run did not survive, and with 2 if there is nothing to compare: the run fails
    or records nothing without any crash, or comes out differently each time.
    """
    try:
        from rich.console import Console

        from crewai_dbos._import_path import NotFoundError, look_here
        from crewai_dbos.testing.crash import CrashTest, CrashTestError, report
    except ImportError as error:
        if not _is_of_an_extra(error):
            raise
        needed = "pip install 'crewai-dbos[cli,testing]'"
        raise _failed(f"The crash test needs an extra: {needed}", 2) from None

    look_here()
    console = Console(highlight=False, stderr=as_json)
    if not console.is_terminal:
        console.width = 160
    try:
        arguments = json.loads(_read(inputs))
    except OSError as error:
        raise _failed(f"--inputs can't be read: {error}", 2) from None
    except ValueError as error:
        raise _failed(f"--inputs is not JSON: {error}", 2) from None
    if not isinstance(arguments, dict):
        raise _failed('--inputs is a JSON object, as {"inputs": {"topic": "tea"}}', 2)
    try:
        # What a script or its module prints is no part of a report.
        with redirect_stdout(sys.stderr if as_json else sys.stdout):
            test = CrashTest(
                target,
                arguments,
                model=model,
                people=people,
                setup=setup,
                left_behind=left_behind,
                ignore=ignore or (),
                database=database,
                asynchronous=asynchronous,
                fresh=fresh,
                timeout=timeout,
            )
            with test, console.status("a run that nothing happens to") as status:
                kills = test.positions(positions, seed)
                verdicts = []
                for verdict in test.run_all(kills, at_once):
                    verdicts.append(verdict)
                    if not as_json:
                        console.print(report.line(verdict, len(verdicts), len(kills)))
                    status.update(f"{len(verdicts)} of {len(kills)} positions")
    except (CrashTestError, NotFoundError) as error:
        raise _failed(str(error), 2) from None
    if as_json:
        typer.echo(json.dumps(report.as_data(verdicts), indent=2))
    else:
        report.show(verdicts, console)
    raise typer.Exit(not all(verdict.ok for verdict in verdicts))


def _read(given: str) -> str:
    if given == "-":
        return sys.stdin.read()
    if given.startswith("@"):
        return Path(given[1:]).read_text(encoding="utf-8")
    return given


def _is_of_an_extra(missing: ImportError) -> bool:
    return (missing.name or "").partition(".")[0] in ("rich", "starlette", "uvicorn")


def _failed(message: str, code: int = 1) -> typer.Exit:
    typer.echo(message, err=True)
    return typer.Exit(code)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
