"""docs/people.md: its programs run as they stand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crewai_dbos.testing import ModelServer
from pages.blocks import blocks
from people.office import writing
from support.python import Program, python

BLOCKS = blocks("docs/people.md")

pytestmark = pytest.mark.crash


def test_the_crew_and_who_answers(tmp_path: Path) -> None:
    crew, answers, _ = BLOCKS
    program = tmp_path / "support.py"
    program.write_text(crew)
    other = tmp_path / "answers.py"
    other.write_text(answers)
    with ModelServer(writing({"to": "ann@example.org", "body": "Hello."})) as server:
        env = {**os.environ, "HOME": str(tmp_path), **server.env}
        waiting = Program(program, folder=tmp_path, env=env)
        try:
            said = ""
            while "send_email {" not in said:
                done = python(other, folder=tmp_path, env=env)
                said = done.stdout
                waiting.check_is_there()
            out, _ = waiting.communicate(timeout=60)
        finally:
            waiting.end()
    assert "--> bob@example.org: Hello." in out
    assert out.count("-->") == 1
    assert len(server.requests) == 2


def test_the_tool_that_asks(tmp_path: Path) -> None:
    program = tmp_path / "tool.py"
    program.write_text(BLOCKS[2])
    done = python(program, folder=tmp_path, env={**os.environ, "HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
