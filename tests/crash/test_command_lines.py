"""What other users of the machine can read of a crash test: the command lines of its processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from crash.names import ASK
from crewai_dbos.cli import app
from crewai_dbos.testing import Reply, Request, text
from crewai_dbos.testing.crash import CrashTest

pytestmark = pytest.mark.crash

SECRET = "sk-nobody-reads-this"

PROGRAM = """
from pathlib import Path

from crewai import Agent

from crewai_dbos import DBOSAgent
from crash.test_command_lines import at_work


def script(request):
    Path("lines").open("a").write(f"{at_work()}\\n")
    Path("asked").write_text(request.last_user_text)
    return "Done."


agent = DBOSAgent(
    agent_name="support",
    orig_agent=lambda: Agent(role="S", goal="G", backstory="B", llm="openai/gpt-4o-mini"),
)
"""


def at_work() -> list[list[str]]:
    """The command lines of the processes below this one: of who asks, and where it comes from."""
    return [each.cmdline() for each in psutil.Process().children(recursive=True) if _is_there(each)]


def _is_there(process: psutil.Process) -> bool:
    """Whether it is still at work: other tests of this process may leave one that has ended."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_inputs_and_environment_are_on_no_command_line() -> None:
    """Nor on one of new interpreters: test_crash_matrix.py."""
    asked: list[str] = []
    lines: list[list[str]] = []

    def script(request: Request) -> Reply:
        asked.append(request.last_user_text)
        lines.extend(at_work())
        return text("Done.")

    with CrashTest(
        "crash.application:native_postman",
        {"messages": f"{ASK} {SECRET}"},
        model=script,
        environment={"PASSWORD": SECRET},
    ) as test:
        assert test.undisturbed.ended["status"] == "SUCCESS"
    assert SECRET in asked[0]
    assert len(lines) >= 2
    assert SECRET not in str(lines)


def test_the_command_reads_inputs_that_are_on_no_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "answers_by_hand.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    options = ["--model", "answers_by_hand:script", "--inputs", "-", "--positions", "1", "--json"]
    ran = CliRunner().invoke(
        app,
        ["crashtest", "answers_by_hand:agent", *options],
        input=json.dumps({"messages": f"Say {SECRET}."}),
    )
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["survived"] == 1
    assert SECRET in (tmp_path / "asked").read_text()
    lines = (tmp_path / "lines").read_text()
    assert "crash._inside" in lines
    assert SECRET not in lines
