"""``crewai-dbos inbox``: what runs ask people, and their answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import click
import typer
from rich.console import Console
from rich.markup import escape

from crewai_dbos._commands import tables, typed
from crewai_dbos._commands.examples import example
from crewai_dbos._commands.options import AsJson, Url, ago, open_control
from crewai_dbos._commands.tables import Column, Table
from crewai_dbos._printable import plain, plain_lines
from crewai_dbos._requests.answers import reply_from
from crewai_dbos.control import Answer, Approve, Control, Feedback, Reject, Reply, Request
from crewai_dbos.errors import AnswerError, InvalidAnswer

app = typer.Typer(
    help="See what runs ask people, and answer. At a terminal, without a command: one by one.",
    invoke_without_command=True,
    no_args_is_help=False,
    epilog=example("inbox"),
)

Audience = Annotated[str | None, typer.Option(help="Only what is for them.")]
By = Annotated[str | None, typer.Option(help="Who answers; by default your user name.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Of the request; its first letters will do.")]


@app.callback()
def inbox(context: typer.Context, db_url: Url = None, audience: Audience = None) -> None:
    """Go through what is open, one after the other."""
    if context.invoked_subcommand is not None:
        context.default_map = {context.invoked_subcommand: {"audience": audience}}
        return
    if not sys.stdin.isatty():
        list_requests(db_url, audience)
        return
    with open_control(db_url) as control:
        requests = control.requests(audience=audience)
        console = tables.console()
        for request in requests:
            _show(console, request)
            try:
                if (answer := _PROMPTS[request.kind](request)) is not None:
                    _answer(control, request.request_id, answer, None)
            except AnswerError as error:
                console.print(escape(str(error)))
        console.print("Nothing is open." if not requests else "That was all.")


@app.command("list", epilog=example("inbox list"))
def list_requests(
    db_url: Url = None,
    audience: Audience = None,
    every: Annotated[bool, typer.Option("--all", help="Also what is answered.")] = False,
    as_json: AsJson = False,
) -> None:
    """What can be answered, the oldest first."""
    with open_control(db_url) as control:
        requests = control.requests(audience=audience, only_open=not every)
    if as_json:
        typer.echo(json.dumps([request.as_json() for request in requests], indent=2))
        return
    if not requests:
        typer.echo("Nothing is open.")
        return
    tables.show(tables.console(), _table(requests))


def _table(requests: Sequence[Request]) -> Table:
    columns = (
        Column("id"),
        Column("kind", 1),
        Column("for", 2, least=8),
        Column("asked", 3),
        Column("until", 4),
        Column("run", 5),
    )
    table = Table(columns, note="what")
    for request in requests:
        table.row(
            request.request_id,
            request.kind if request.state == "open" else request.state,
            plain(request.audience or ""),
            ago(request.created),
            ago(request.deadline),
            plain(request.run_id),
            note=plain(_asked(request)),
        )
    return table


_SHOWN = 40
"""Characters of the arguments that a list shows."""


def _asked(request: Request) -> str:
    """The question, and the beginning of the arguments with which a tool is to be called."""
    question = request.question
    if request.kind != "approval" or not question.arguments:
        return question.message
    arguments = json.dumps(question.arguments, ensure_ascii=False)
    cut = arguments if len(arguments) <= _SHOWN else f"{arguments[:_SHOWN]}…"
    return f"{question.message} {cut}"


@app.command(epilog=example("inbox show"))
def show(request_id: Id, db_url: Url = None, as_json: AsJson = False) -> None:
    """One request, whole."""
    with open_control(db_url) as control:
        request = control.request(request_id)
    if as_json:
        typer.echo(json.dumps(request.as_json(), indent=2))
    else:
        _show(tables.console(), request)


@app.command(epilog=example("inbox approve"))
def approve(
    request_id: Id,
    edit: Annotated[bool, typer.Option("--edit", help="Change the arguments in $EDITOR.")] = False,
    arguments: Annotated[
        str | None, typer.Option(metavar="JSON", help="Arguments that are to be others.")
    ] = None,
    by: By = None,
    db_url: Url = None,
) -> None:
    """Let the tool be called, the result pass, or the run cost more."""

    def answer(request: Request) -> Answer:
        if edit:
            return Approve(_edited(request))
        return Approve(None if arguments is None else typed.as_json(arguments, "--arguments"))

    _say(request_id, answer, by, db_url)


@app.command(epilog=example("inbox reject"))
def reject(
    request_id: Id,
    why: Annotated[str, typer.Option(help="What the model is told.")] = "",
    by: By = None,
    db_url: Url = None,
) -> None:
    """Do not let the tool be called, or the run cost more."""
    _say(request_id, lambda _: Reject(why), by, db_url)


@app.command(epilog=example("inbox feedback"))
def feedback(
    request_id: Id,
    text: Annotated[str, typer.Argument(help="What is to be made better.")],
    by: By = None,
    db_url: Url = None,
) -> None:
    """Say what to change of a result."""
    _say(request_id, lambda _: Feedback(text), by, db_url)


@app.command(epilog=example("inbox reply"))
def reply(
    request_id: Id,
    value: Annotated[str, typer.Argument(help="A text; JSON where the question has a schema.")],
    by: By = None,
    db_url: Url = None,
) -> None:
    """Answer a question."""
    _say(request_id, lambda asked: Reply(reply_from(value, asked.question.schema)), by, db_url)


def _say(
    request_id: str, answer: Callable[[Request], Answer], by: str | None, db_url: str | None
) -> None:
    with open_control(db_url) as control:
        request = control.request(request_id)
        _answer(control, request.request_id, answer(request), by)


def _answer(control: Control, request_id: str, answer: Answer, by: str | None) -> None:
    control.answer(request_id, answer, by=by)
    typer.echo(f"{request_id[:8]} is answered.")


def _show(console: Console, request: Request) -> None:
    question = request.question
    console.print(f"\n[bold]{_safe(question.message)}[/bold]")
    lines: list[tuple[str, Any]] = [
        ("request", request.request_id),
        ("run", request.run_id),
        ("at", request.path),
        ("state", request.state),
        ("agent", question.agent),
        ("task", question.task_description or question.task),
        ("tool", question.tool_description),
        ("for", request.audience),
        ("asked", ago(request.created)),
        ("until", ago(request.deadline)),
        ("answered by", request.answered_by),
        ("answer", None if request.answer is None else json.dumps(request.answer)),
        ("outcomes", ", ".join(question.outcomes or ())),
    ]
    for name, value in lines:
        if value:
            console.print(f"[dim]{name:>11}[/dim]  {_safe(value)}", soft_wrap=True)
    if question.arguments is not None:
        what = "The limit would be:" if request.kind == "budget" else question.tool or ""
        console.print(f"\n{_safe(what)}")
        for name, value in question.arguments.items():
            console.print(f"  [cyan]{_safe(name)}[/cyan] = {_safe(json.dumps(value))}")
    if question.output:
        console.print(f"\n{_safe(question.output)}")
    if question.schema is not None and question.arguments is None:
        console.print(f"\n[dim]schema[/dim] {escape(json.dumps(question.schema))}")


def _safe(text: object) -> str:
    """`text` of a model, as it is: no markup, and nothing that would move a cursor."""
    return escape(plain_lines(text))


def _approval(request: Request) -> Answer | None:
    chosen = typer.prompt("[a]pprove, [e]dit, [r]eject, [s]kip", default="s")
    if chosen.startswith("a"):
        return Approve()
    if chosen.startswith("e"):
        return Approve(_edited(request))
    if chosen.startswith("r"):
        return Reject(typer.prompt("Why", default=""))
    return None


def _review(request: Request) -> Answer | None:
    if request.question.outcomes:
        said = typer.prompt("What you say of it (empty to skip)", default="", show_default=False)
        return Feedback(said) if said else None
    chosen = typer.prompt("[a]ccept, [f]eedback, [s]kip", default="s")
    if chosen.startswith("a"):
        return Approve()
    if chosen.startswith("f"):
        return Feedback(typer.prompt("What to change"))
    return None


def _question(request: Request) -> Answer | None:
    value = typer.prompt("Reply (empty to skip)", default="", show_default=False)
    return Reply(reply_from(value, request.question.schema)) if value else None


_PROMPTS: dict[str, Callable[[Request], Answer | None]] = {
    "approval": _approval,
    "review": _review,
    "feedback": _review,
    "question": _question,
    "budget": _approval,
}
"""By the kind of a request: what somebody at the terminal answers; None to leave it open."""


def _edited(request: Request) -> dict[str, Any]:
    """The arguments as they come out of ``$EDITOR``. Left without saving, nothing is answered."""
    given = request.question.arguments or {}
    text = click.edit(json.dumps(given, indent=2), extension=".json")
    if text is None:
        raise InvalidAnswer("The editor was left without saving: nothing is answered.")
    after = typed.as_json(text, "What was edited")
    if not isinstance(after, dict):
        raise InvalidAnswer("What was edited is no object with the arguments: nothing is answered.")
    if missing := sorted(given.keys() - after.keys()):
        raise InvalidAnswer(
            f"{', '.join(missing)} is missing after the edit. An argument can be changed, not left "
            "out: nothing is answered."
        )
    return after
