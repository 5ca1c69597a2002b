"""The command line, `crewai-dbos`. Commands import what they need when they run."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from crewai_dbos.doctor import Finding, Report

try:
    import typer
except ImportError:
    sys.exit("The command line is an extra: pip install 'crewai-dbos[cli]'")

from crewai_dbos._commands import (
    cost,
    events,
    forking,
    inbox,
    kickoff,
    migrate,
    moving,
    options,
    runs,
    serve,
    stopping,
    worker,
    workers,
)
from crewai_dbos._commands.examples import example

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(inbox.app, name="inbox")
_OF_RUNS: dict[str, Callable[..., None]] = {
    "kickoff": kickoff.kickoff,
    "cancel": stopping.cancel,
    "resume": stopping.resume,
    "move": moving.move,
    "fork": forking.fork,
    "events": events.events,
    "cost": cost.cost,
    "raise-budget": cost.raise_budget,
}
for name, command in _OF_RUNS.items():
    runs.app.command(name, epilog=example(f"runs {name}"))(command)
app.add_typer(
    runs.app, name="runs", short_help="Begin runs, see them, stop them, fork them, delete them."
)
app.command(epilog=example("worker"))(worker.worker)
app.command(epilog=example("serve"))(serve.serve)
app.command(epilog=example("workers"))(workers.workers)
app.command(epilog=example("migrate"))(migrate.migrate)


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

    Exits with 0 if all is well;
    with 1 if what was asked for is not there, or did not go well;
    with 2 if the command was not called as it can be, or the database can't be reached.
    """
    options.SCHEMA.set(schema)


@app.command(epilog=example("demo"))
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


@app.command(epilog=example("doctor"))
def doctor(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="MODULE[:OBJECT]",
            help="A DBOSFlow, DBOSCrew or DBOSAgent, or crewAI's own, as app:crew; or a module, or "
            "its file, for all that `crewai-dbos worker` would carry out.",
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON and nothing else.")
    ] = False,
) -> None:
    """Read definitions without running them: what is recorded, and what to put right.

    Exits with 1 if there is an error in one, and with 2 if a path leads nowhere.
    """
    from crewai_dbos import _import_path

    _import_path.look_here()
    try:
        reports = _reports(targets)
    except _import_path.NotFoundError as error:
        raise _failed(str(error), 2) from None
    if as_json:
        each = [report.as_json() for report in reports]
        is_one = len(targets) == 1 and ":" in targets[0]
        typer.echo(json.dumps(each[0] if is_one else each, indent=2))
    else:
        from rich.console import Console

        from crewai_dbos.doctor import _show

        console = Console(highlight=False)
        told: list[Finding] = []
        for number, report in enumerate(reports):
            if number:
                console.print()
            _show.show(report, console, told)
            told += report.findings
    raise typer.Exit(any(report.has_errors for report in reports))


def _reports(targets: list[str]) -> list[Report]:
    """The doctor's, one for each definition."""
    from crewai_dbos.doctor import Report, _load, inspect

    reports: list[Report] = []
    seen: list[Any] = []
    for path in targets:
        try:
            found, module = _load.load(path)
        except _load.BrokenDefinition as broken:
            reports.append(Report(path, findings=(broken.finding,)))
            continue
        new = [each for each in found if all(each is not other for other in seen)]
        seen += new
        reports += [inspect(each, module=module) for each in new]
    return reports


@app.command(epilog=example("crashtest"))
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
