"""docs/http.md: its blocks run one after the other, as one program."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crewai_dbos.testing import ModelServer, text
from pages.blocks import blocks
from support.python import python


@pytest.mark.crash
def test_the_blocks_are_one_program(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("\n".join(blocks("docs/http.md")))
    with ModelServer(lambda _: text("About otters.")) as server:
        env = {**os.environ, "HOME": str(tmp_path), **server.env}
        done = python(program, folder=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        assert "About otters.\n" in done.stdout
        assert len(server.requests) == 1
