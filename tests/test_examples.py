"""The programs in `examples/`, run as a user runs them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import crewai_dbos
from crewai_dbos.testing import (
    Hang,
    Message,
    ModelServer,
    Request,
    ToolCall,
    hang,
    text,
    tool_calls,
)
from crewai_dbos.testing.crash import CrashTest
from support.crashing import taking_turns
from support.python import Program

pytestmark = pytest.mark.crash

EXAMPLES = Path(__file__).parents[1] / "examples"
SOURCE = str(Path(crewai_dbos.__file__).parents[1])


def start(example: str, folder: Path, **env: str) -> Program:
    return Program(
        EXAMPLES / example, folder=folder, env={**os.environ, "PYTHONPATH": SOURCE, **env}
    )


def test_seed(tmp_path: Path) -> None:
    process = start("seed.py", tmp_path)
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    steps = [line.split()[1] for line in output.splitlines() if re.match(r"\d+ ", line)]
    assert sum("/llm#" in step for step in steps) == 2
    assert sum("/tool:multiplier(" in step for step in steps) == 1
    assert steps.count("handle_tool_end") == 1
    assert output.splitlines()[-1] == "The result of the multiplication is 12."


class Storyteller:
    """A model that saves three chapters, and is silent when first asked for the third."""

    def __init__(self) -> None:
        self.silence: Hang = hang()
        self.asked_for_third = 0

    def __call__(self, request: Request) -> Message | Hang:
        saved = len(request.tool_results)
        if saved == 3:
            return text("The light goes out and comes back.")
        self.asked_for_third += saved == 2
        if saved == 2 and self.asked_for_third == 1:
            return self.silence
        return tool_calls(
            ToolCall("save_chapter", {"title": f"Chapter {saved + 1}", "text": "It was dark."})
        )


def test_quickstart_killed_and_started_again(tmp_path: Path) -> None:
    model = Storyteller()
    with ModelServer(model) as server:
        env = {**server.env, "MODEL": "openai/gpt-4o"}
        first = start("quickstart.py", tmp_path, **env)
        model.silence.wait_until_held(timeout=60)
        first.kill()
        first.communicate(timeout=60)

        second = start("quickstart.py", tmp_path, **env)
        output, errors = second.communicate(timeout=60)
        assert second.returncode == 0, errors
        assert output.splitlines()[-1] == "The light goes out and comes back."
        assert len(server.requests) == 5, "four calls, and one that was cut off"
        assert {request.model for request in server.requests} == {"gpt-4o"}
    titles = re.findall("^# (.*)$", (tmp_path / "story.md").read_text(), re.MULTILINE)
    assert titles == ["Chapter 1", "Chapter 2", "Chapter 3"]


def test_a_flow_of_crews_is_killed_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project with everything at the top level, crews with YAML, a loop and gathers of crews."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "lead_flow"))
    environment = {"OUTBOX": str(tmp_path / "outbox")}
    with CrashTest("main:flow", model="model:answer", environment=environment) as test:
        assert test.undisturbed.ended["answer"] == "Ada, Cleo, after 3 rounds"
        every = taking_turns(test.positions())
        assert len(every) > 30
        # Each of these is killed six times or so, further on each time.
        verdicts = [test.run(*every[first::6]) for first in (0, 3)]
    assert all(verdict.ok for verdict in verdicts), "\n".join(map(str, verdicts))
    assert len(list((tmp_path / "outbox").iterdir())) == 2, "one letter to Ada and one to Cleo"
