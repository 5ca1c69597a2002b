"""docs/batches.md: its blocks run one after the other, as one program."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from crewai_dbos.testing import ModelServer, Reply, Request, error, text
from pages.blocks import blocks
from support.python import python


@pytest.mark.crash
def test_the_blocks_are_one_program(tmp_path: Path) -> None:
    times: Counter[str] = Counter()
    tries = 3  # of an agent at its task, as crewAI has it

    def model(request: Request) -> Reply:
        """Refuses newts at first in the second batch."""
        topic = request.last_user_text.partition("Write on ")[2].partition(".")[0]
        times[topic] += 1
        if topic == "newts" and 1 < times[topic] <= 1 + tries:
            return error(400)
        return text(f"About {topic}.")

    (tmp_path / "program.py").write_text("\n".join(blocks("docs/batches.md")))
    with ModelServer(model) as server:
        env = {**os.environ, "HOME": str(tmp_path), **server.env}
        done = python("program.py", folder=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    lines = "['About voles.', 'About newts.', 'About otters.']"
    assert said.count(lines) == 2
    assert any(line.startswith("item 2 of batch-8: ") for line in said)
    assert times == {"voles": 2, "otters": 2, "newts": 1 + tries + 1}, (
        "only what failed is asked again"
    )
    assert said[-1].startswith("done ")
