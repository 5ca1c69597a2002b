"""What the commands print, in terminals of every width and in none."""

from __future__ import annotations

import io
import os
import shlex
import sys
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from crewai_dbos import _command_lines
from crewai_dbos._commands import inbox, runs, tables, workers
from crewai_dbos.control import Node, Question, Request, Run, Tokens, WorkerInfo

LONG = "0b54c7de-2c8f-4c57-9d43-0a4b1fa0c0de"
NOW = datetime.now(timezone.utc)
MOVE = f"crewai-dbos runs move {LONG} --version 2026-11-29"
WHY = (
    "it is of application version 2026-11-28, and 2026-11-29 is the newest: only a process of "
    f"2026-11-28 goes on with it. Start one, or move the run: {MOVE}"
)


def printed(what: Any, width: int | None) -> list[str]:
    out = io.StringIO()
    tables.show(Console(width=width or 10_000, file=out, highlight=False), what)
    return out.getvalue().splitlines()


def fit(lines: list[str], width: int) -> bool:
    """Whether all is in so many columns but commands, which stand from the first one on."""
    commands = ("crewai-dbos ",)
    return all(cell_len(line) <= width for line in lines if not line.startswith(commands))


def run(run_id: str, state: Any = "done", **more: Any) -> Run:
    told = {
        "definition": "research",
        "kind": "crew",
        "created": NOW - timedelta(minutes=5, seconds=1),
        "seconds": 12.34,
        "tokens": Tokens(total=12_345, requests=3),
        "version": "2026-11-29",
        "executor": "worker-7d9f8b6c5-x2v4q:1:a3f9c2",
    }
    return Run(run_id=run_id, state=state, **{**told, **more})


RUNS = [
    run(LONG, "stranded", reason=WHY, version="2026-11-28"),
    run("order-12", "running", definition="a_very_long_name_of_a_crew"),
    run("12/3", "failed", error="BadRequestError: No paper."),
]


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
@pytest.mark.parametrize("whole", [True, False])
def test_a_list_fits_and_has_whole_ids(width: int, whole: bool) -> None:
    lines = printed(runs._table(RUNS, whole), width)
    assert fit(lines, width)
    assert {each.run_id for each in RUNS} <= {line.split()[0] for line in lines}
    assert all(line == line.rstrip() for line in lines)
    if whole:
        assert WHY in " ".join(" ".join(lines).split())
        assert MOVE in lines
    else:
        assert any("it is of application version" in line for line in lines)


def test_what_gives_way() -> None:
    def head(width: int | None) -> list[str]:
        return printed(runs._table(RUNS, False), width)[0].split()

    assert head(60) == ["id", "definition", "state"]
    assert head(80) == ["id", "definition", "state", "age", "version"]
    whole = ["id", "definition", "state", "age", "took", "tokens", "version"]
    assert head(120) == whole
    assert head(None) == [*whole, "executor", "why"]


def test_the_version_is_shown_where_there_are_several() -> None:
    assert "version" not in printed(runs._table(RUNS[1:], False), None)[0]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_reason_is_never_squeezed(width: int) -> None:
    _, _, *told, command = printed(runs._table(RUNS[:1], True), width)
    assert command == MOVE
    assert all(line.startswith("  ") for line in told)
    assert all(len(line) > width / 2 for line in told[:-1])


def test_without_a_terminal_a_row_is_a_line_and_whole() -> None:
    lines = printed(runs._table(RUNS, False), None)
    assert len(lines) == 4
    assert lines[1].startswith(LONG)
    assert lines[1].endswith(WHY)
    assert "a_very_long_name_of_a_crew" in lines[2]


def test_an_id_that_is_longer_than_the_terminal() -> None:
    long = "order-" + "9" * 90
    for width in (60, 80):
        lines = printed(runs._table([run(long, "stopped", reason=WHY)], True), width)
        assert lines[0] == long
        assert lines[1].split()[:2] == ["research", "stopped"]
        assert fit(lines[1:], width)


def of_a_tree(width: int | None) -> list[str]:
    child = Node(LONG, LONG, "crew", "done", seconds=1.0, tokens=Tokens(total=10))
    tool = Node("m/t", "tool:" + "x" * 70, "tool", "failed", seconds=2.0, error=f"ToolError: {WHY}")
    method = Node("m", "method:ask", "method", "failed", children=(child, tool))
    return printed(runs._whole(run(LONG, "failed", reason=WHY, children=(method,))), width)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_one_run_fits(width: int) -> None:
    lines = of_a_tree(width)
    assert fit(lines, width)
    mine, of_child = (line.split() for line in lines if line.split()[1:2] == [LONG])
    assert mine == ["run", LONG]
    assert of_child[:3] == ["├", LONG, "done"]
    assert any(line.lstrip("│└├ ").startswith("ToolError: it is of") for line in lines)
    assert lines.count(MOVE) == 2


def test_one_run_without_a_terminal() -> None:
    lines = of_a_tree(None)
    assert [line for line in lines if line.endswith(WHY)]
    assert any("x" * 70 in line and line.endswith(f"ToolError: {WHY}") for line in lines)


WORKERS = [
    WorkerInfo(
        executor_id="worker-7d9f8b6c5-x2v4q:1:a3f9c2",
        process="worker-7d9f8b6c5-x2v4q:1",
        application="support",
        version="2026-11-29",
        definitions={"crew": ("research", "triage"), "flow": tuple(f"flow_{n}" for n in range(9))},
        started=NOW,
        lease=30.0,
        age=2.0,
        alive=True,
        runs=3,
    )
]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_workers_fit(width: int) -> None:
    lines = printed(workers._table(WORKERS), width)
    assert fit(lines, width)
    assert lines[1].split()[0] == WORKERS[0].executor_id
    assert "alive" in lines[1]
    told = " ".join(" ".join(lines).split())
    assert "crew research, triage; flow flow_0, flow_1" in told
    assert "flow_8" in told


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_requests_fit(width: int) -> None:
    question = Question("May Clerk call send_email? " * 9)
    asked = Request(LONG, "order-12", "x", "approval", "open", question, "support", created=NOW)
    lines = printed(inbox._table([asked]), width)
    assert fit(lines, width)
    assert any(line.split()[0] == LONG for line in lines)
    assert any("May Clerk call" in line for line in lines)


def test_only_the_names_of_facts_are_dim() -> None:
    out = io.StringIO()
    colours = {"color_system": "standard", "no_color": False}
    where = Console(width=80, file=out, force_terminal=True, **colours)  # type: ignore[arg-type]
    tables.show(where, tables.Facts([("why", "it waits"), ("state", Text("done", "green"))]))
    tables.show(where, runs._table(RUNS[2:], False))
    told = out.getvalue()
    assert "\x1b[2m  why  \x1b[0mit waits\n" in told
    assert "\x1b[2mstate  \x1b[0m\x1b[32mdone\x1b[0m\n" in told
    assert "\x1b[31mfailed" in told
    assert "BadRequestError: No paper.\n" in told


ODD = [LONG, "order-12", "a b's", "ends.", "ends:", "(in brackets)", "12.3", "a,b", "--at"]


@pytest.mark.parametrize("run_id", ODD)
def test_commands_are_found_whatever_is_around_them(run_id: str) -> None:
    commands = [
        _command_lines.resume(run_id),
        _command_lines.show(run_id),
        _command_lines.move(run_id),
        _command_lines.move(run_id, run_id),
        _command_lines.fork(run_id, run_id, "task:write", version=run_id),
        _command_lines.worker(),
        _command_lines.INBOX,
    ]
    for command in commands:
        assert run_id in shlex.split(command) or "runs" not in command
        for told in ("{}", "{}.", "{}: so", "({}), or", "{}, and", "Say {} and wait, then {}."):
            text = told.format(command, command)
            found = [text[start:end] for start, end in _command_lines.places_in(text)]
            assert found == [command] * told.count("{}")


@pytest.mark.parametrize("width", [30, 60, 80, 100])
def test_a_command_is_copied_whole(width: int) -> None:
    resume, fork = _command_lines.resume(LONG), _command_lines.fork(LONG, "task:write")
    why = (
        f"The tool has failed. Say {resume} and wait for the process that takes it ({fork}). That "
        f"has {resume}, or {fork}."
    )
    facts = printed(tables.Facts([("why", why), ("state", "stopped")]), width)
    listed = printed(runs._table([run("a", "stopped", reason=why)], True), width)
    for lines in (facts, listed):
        assert [line for line in lines if "crewai-dbos" in line] == [resume, fork, resume, fork]
        assert fit(lines, width)
        told = " ".join(" ".join(lines).split())
        assert f"failed. Say {resume} and wait for the process that takes it {fork} That" in told


def test_a_value_that_begins_with_a_command_has_its_name() -> None:
    resume = _command_lines.resume(LONG)
    told = printed(tables.Facts([("why", f"{resume} asks again."), ("state", "stopped")]), 60)
    assert told == ["  why", resume, "       asks again.", "state  stopped"]
    assert printed(tables.Facts([("why", resume)]), 60) == ["why", resume]


def test_columns_are_those_of_a_terminal() -> None:
    why = "错误 信息 " * 12 + "错误" * 40 + f" {LONG}{LONG} and so on."
    lines = printed(runs._table([run("a", "stopped", reason=why)], True), 60)
    assert [line for line in lines if cell_len(line) > 60] == [f"  {LONG}{LONG}"]
    assert "".join("".join(lines[2:]).split()) == why.replace(" ", "")
    cut = printed(runs._table([run("\t错误", error=why)], False), 60)
    assert fit(cut, 60)
    assert cut[1].startswith(" 错误  research")


def test_what_is_watched_is_whole_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_LOOK", 0)
    child = Node(LONG, LONG, "crew", "done")
    stands: list[Any] = ["running", "running", "stopped"]
    left = iter(run(LONG, state, reason=WHY, children=(child,)) for state in stands)

    class Told:
        def run(self, run_id: str) -> Run:
            return next(left)

    out = io.StringIO()
    where = Console(width=30, height=60, file=out, force_terminal=True, color_system=None)
    runs._watch_live(Told(), LONG, where)  # type: ignore[arg-type]
    *frames, whole = filter(str.strip, out.getvalue().replace("\x1b[1A", "").split("\x1b[2K"))
    assert len(frames) >= 3
    for frame in frames:
        assert "".join(frame.split()).count(LONG) == 3  # in its head, in the command, in the tree
        assert all(cell_len(line) <= 30 for line in frame.splitlines()[1:-1])
    assert {f"       run  {LONG}", MOVE, f"└ {LONG}"} <= set(whole.splitlines())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("out", "columns", "width"),
    [
        (io.StringIO, None, tables._ANY_WIDTH),
        (io.StringIO, "0", tables._ANY_WIDTH),
        (io.StringIO, "²", tables._ANY_WIDTH),
        (io.StringIO, "70", 70),
        (Terminal, "0", 80),
        (Terminal, "70", 70),
    ],
)
@pytest.mark.parametrize("colour", [True, False])
def test_how_wide_it_is(
    monkeypatch: pytest.MonkeyPatch, out: Any, columns: str | None, width: int, colour: bool
) -> None:
    for name in ("COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    if colour:
        monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("os.get_terminal_size", lambda _: os.terminal_size((80, 24)))
    monkeypatch.setattr(sys, "stdout", out())
    assert tables.console().width == width
    tables.show(tables.console(), runs._table(RUNS, False))
    told = sys.stdout.getvalue()  # type: ignore[union-attr]
    assert LONG in told
    assert (WHY in told) is (width == tables._ANY_WIDTH)


def test_what_a_model_says_moves_no_cursor() -> None:
    bad = "All is well.\x1b[2J\x1b]0;owned\x07 [red]no[/red]"
    question = Question(bad, tool="send", arguments={"to": bad}, output=f"{bad}\nand more")
    asked = Request("1f9c", "order-12", "x", "approval", "open", question, bad, created=NOW)
    out = io.StringIO()
    inbox._show(Console(width=80, file=out, highlight=False), asked)
    told = out.getvalue() + "\n".join(printed(inbox._table([asked]), 80))
    assert not set(told) & {"\x1b", "\x07"}
    assert "[red]no[/red]" in told
    assert "\nand more\n" in told
