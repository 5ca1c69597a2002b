"""docs/control.md: its blocks run one after the other, as one program."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from crewai_dbos.testing import ModelServer, Reply, Request, delayed, text
from pages.blocks import blocks
from support.python import python


def model(request: Request) -> Reply:
    """Says what it was asked about; of whales not before the run is cancelled."""
    said = request.last_user_text
    topic = next((word for word in ("otters", "seals", "whales", "Rivers") if word in said), "")
    return delayed(1.0, text("About whales.")) if topic == "whales" else text(f"About {topic}.")


@pytest.mark.crash
def test_the_blocks_are_one_program(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("\n".join(blocks("docs/control.md")))
    with ModelServer(model) as server:
        env = {**os.environ, "HOME": str(tmp_path), **server.env}
        done = python(program, folder=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    for line in (
        r"otters [\d.]+ \d+ [\d.e-]+ None",
        r"task:1.outline done [\d.]+ \d+",
        r"0 runs would go",
        r"no worker: .*research.*",
        r"\[\]",
        r"cancelled by ann: The customer has called it off",
        r"stopped: \d+ of 10 tokens",
        r"1 run\.started  \{.*",
        r"\d+ llm\.ended crew:research#1/task:1\.outline#1/agent:Writer#1/llm#1 .*",
        r"\d+ run\.ended  \{.*",
    ):
        assert re.search(f"^{line}$", said, re.MULTILINE), (line, said)
    # Otters, and what their forks make again; whales, perhaps one in vain; seals.
    assert len(server.requests) in (2 + 1 + 1 + 2 + 2, 2 + 1 + 1 + 3 + 2)
