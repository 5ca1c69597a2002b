"""docs/http.md: its blocks run one after the other, as one program."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from crewai_dbos.testing import ModelServer, text
from support.python import python

PAGE = (Path(__file__).parents[2] / "docs" / "http.md").read_text(encoding="utf-8")


@pytest.mark.crash
def test_the_blocks_are_one_program(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    program = tmp_path / "program.py"
    program.write_text("\n".join(blocks))
    with ModelServer(lambda _: text("About otters.")) as server:
        env = {**os.environ, "HOME": str(tmp_path), **server.env}
        done = python(program, folder=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        assert "About otters.\n" in done.stdout
        assert len(server.requests) == 1
