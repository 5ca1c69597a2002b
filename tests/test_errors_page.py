"""docs/errors.md has every public error and nothing else, and its program runs as it stands."""

from __future__ import annotations

import builtins
import os
import re
from pathlib import Path

from crewai_dbos import errors
from crewai_dbos.testing import ModelServer, text
from pages.blocks import blocks
from support.python import python

PAGE = Path(__file__).parent.parent / "docs" / "errors.md"

ROWS = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)


def test_every_error_is_on_the_page_once() -> None:
    named = [name for name, _, _ in ROWS]
    assert sorted([*named, "CrewaiDbosError"]) == sorted(errors.__all__)


def test_the_bases_are_those_that_the_page_says() -> None:
    for name, when, _ in ROWS:
        said = re.findall(r"(?:A|and a) `(\w+Error)`(?=\.$| and a `\w+Error`\.$)", when)
        public = {base.__name__ for base in getattr(errors, name).__bases__}
        public -= {"CrewaiDbosError", "AnswerError"}  # one for all, one for a section
        assert set(said) == {each for each in public if _is_known(each)}, name


def _is_known(name: str) -> bool:
    return hasattr(errors, name) or hasattr(builtins, name)


def test_the_program_runs(tmp_path: Path) -> None:
    (block,) = blocks("docs/errors.md")
    program = tmp_path / "program.py"
    program.write_text(block)
    with ModelServer([text("No.")]) as server:
        done = python(
            program, folder=tmp_path, env={**os.environ, "HOME": str(tmp_path), **server.env}
        )
    assert done.returncode == 0, done.stderr
    assert "No. / nobody has asked" in done.stdout
    assert len(server.requests) == 1
