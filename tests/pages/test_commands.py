"""The commands that the pages show are there, with the options that they are given."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main

from crewai_dbos.cli import app
from crewai_dbos.testing.crash.report import as_data
from pages.blocks import ROOT, all_blocks, pages, text_of

ELSEWHERE = (
    ".",
    "crewai",
    "curl",
    "docker",
    "export",
    "kubectl",
    "mkdir",
    "open",
    "pkill",
    "pytest",
    "python",
    "run_crew",
    "uvicorn",
)
"""Programs that are not ours. What they do with this package stands in a test of its page."""


def commands(page: str) -> list[str]:
    """What a page has a reader type: in blocks, and in the text as `crewai-dbos ...`."""
    found: list[str] = []
    for block in all_blocks(page):
        lines = block.text.replace("\\\n", " ").splitlines()
        if block.language == "console":
            found += [line[2:] for line in lines if line.startswith("$ ")]
        elif block.language == "bash":
            found += lines
    found += re.findall(r"(?<!`)`(crewai-dbos [^`\n]+)`", text_of(page))
    return [each for each in found if shlex.split(each, comments=True)]


PAGES = [page for page in pages() if commands(page) and page != "CHANGELOG.md"]
"""The changelog also has commands of earlier releases."""


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_are_there(page: str) -> None:
    for line in commands(page):
        words = shlex.split(line, comments=True)
        while re.match(r"\w+=", words[0]) and len(words) > 1:
            words.pop(0)
        program, *rest = words
        if program == "crewai-dbos":
            parses(rest, line)
        elif program == "pip":
            extras_are_there(line)
        elif program == "make":
            assert_target(rest, line)
        elif program == "cd":
            makes_it = page == "docs/tutorial.md"
            assert makes_it or (ROOT / rest[0]).is_dir(), line
        else:
            assert program in ELSEWHERE or re.fullmatch(r"[A-Z_]+=.*", program), line
            files_are_there(rest, line)


def test_the_start_page_installs_what_the_tutorial_uses() -> None:
    start, tutorial = (
        re.findall(r"^pip install '?crewai-dbos(.*)$", text_of(page), re.MULTILINE)
        for page in ("docs/index.md", "docs/tutorial.md")
    )
    assert start == tutorial == ["[cli,http,testing]'"]


def parses(arguments: list[str], line: str) -> None:
    """The command is one of ours, and takes these options."""
    command = typer.main.get_command(app)
    context = click.Context(command, info_name="crewai-dbos")
    while True:
        names = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
        names |= set(command.get_help_option_names(context))
        commands = getattr(command, "commands", {})
        following = next((word for word in arguments if word in commands), None)
        own = arguments[: arguments.index(following)] if following else arguments
        for word in own:
            if word.startswith("-") and len(word) > 1:
                assert word.partition("=")[0] in names, f"{word} of: {line}"
        if following is None:
            assert not commands or not own or own[0].startswith("-"), line
            return
        command = commands[following]
        arguments = arguments[arguments.index(following) + 1 :]


def extras_are_there(line: str) -> None:
    told = text_of("pyproject.toml").partition("[project.optional-dependencies]")[2]
    known = set(re.findall(r"^([\w-]+) = \[", told.partition("\n[")[0], re.MULTILINE))
    for extras in re.findall(r"crewai-dbos\[([\w,-]+)\]", line):
        assert set(extras.split(",")) <= known, line


def assert_target(words: list[str], line: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    target = next(word for word in words if "=" not in word)
    assert re.search(rf"^{target}:", makefile, re.MULTILINE), line


def files_are_there(words: list[str], line: str) -> None:
    """The files of the examples that are named."""
    for word in words:
        if word.startswith("examples/"):
            assert (ROOT / Path(word)).exists(), line


def every_command(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, each in command.commands.items():
        whole = f"{path} {name}".strip()
        if getattr(each, "commands", None) is None or each.invoke_without_command:
            yield whole, each
        if getattr(each, "commands", None) is not None:
            yield from every_command(each, whole)


def test_the_help_of_each_command_has_an_example() -> None:
    found = dict(every_command(typer.main.get_command(app)))
    assert {"runs list", "inbox", "inbox reply", "worker"} <= set(found)
    for name, command in found.items():
        label, _, line = (command.epilog or "").partition(": ")
        assert label == "Example", name
        assert line.startswith(f"crewai-dbos {name}"), name
        parses(shlex.split(line)[1:], line)


def test_the_shape_of_json_is_told_for_each_command_that_prints_it() -> None:
    page = (ROOT / "docs/control.md").read_text()
    rows = re.findall(r"(?m)^\| (`.*?`) \|", page.partition("## What --json prints")[2])
    told = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    every = every_command(typer.main.get_command(app))
    with_json = {
        path.removeprefix("crewai-dbos").strip()
        for path, command in every
        if any("--json" in option.opts for option in command.params)
    }
    assert told == with_json


def test_what_a_crash_test_prints_as_json() -> None:
    page = (ROOT / "docs/control.md").read_text()
    [row] = re.findall(r"(?m)^\| `crashtest` \| `(.*)` \|$", page)
    assert re.findall(r'"(\w+)"', row) == list(as_data([]))
