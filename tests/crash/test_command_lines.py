"""What other users of the machine can read of a crash test: the command lines of its processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from crash.names import ASK
from crewai_dbos.testing import Reply, Request, text
from crewai_dbos.testing.crash import CrashTest

pytestmark = pytest.mark.crash

SECRET = "sk-nobody-reads-this"

PROGRAM = """
from pathlib import Path

import psutil
from crewai import Agent

from crewai_dbos import DBOSAgent


def script(request):
    test = psutil.Process()
    every = (test, *test.children(recursive=True))
    lines = [each.cmdline() for each in every if each.status() != psutil.STATUS_ZOMBIE]
    Path("lines").open("a").write(f"{lines}\\n")
    Path("asked").write_text(request.last_user_text)
    return "Done."


agent = DBOSAgent(
    agent_name="support",
    orig_agent=lambda: Agent(role="S", goal="G", backstory="B", llm="openai/gpt-4o-mini"),
)
"""


def is_there(process: psutil.Process) -> bool:
    """Whether it is still at work: other tests of this process may leave one that has ended."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("fresh", [False, True], ids=["forked", "fresh"])
def test_inputs_and_environment_are_on_no_command_line(fresh: bool) -> None:
    asked: list[str] = []
    lines: list[list[str]] = []

    def script(request: Request) -> Reply:
        # The process that asks is at work now, and so is every one that it descends from.
        asked.append(request.last_user_text)
        at_work = (each for each in psutil.Process().children(recursive=True) if is_there(each))
        lines.extend(each.cmdline() for each in at_work)
        return text("Done.")

    with CrashTest(
        "crash.application:native_postman",
        {"messages": f"{ASK} {SECRET}"},
        model=script,
        fresh=fresh,
        environment={"PASSWORD": SECRET},
    ) as test:
        assert test.undisturbed.ended["status"] == "SUCCESS"
    assert SECRET in asked[0]
    assert len(lines) >= (1 if fresh else 2)
    assert SECRET not in str(lines)


def test_the_command_reads_inputs_that_are_on_no_command_line(tmp_path: Path) -> None:
    (tmp_path / "support.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "crewai_dbos.cli", "crashtest", "support:agent"]
    options = ["--model", "support:script", "--inputs", "-", "--positions", "1", "--json"]
    ran = subprocess.run(
        [*command, *options],
        input=json.dumps({"messages": f"Say {SECRET}."}),
        capture_output=True,
        text=True,
        timeout=280,
        cwd=tmp_path,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert json.loads(ran.stdout)["survived"] == 1
    assert SECRET in (tmp_path / "asked").read_text()
    lines = (tmp_path / "lines").read_text()
    assert "crashtest" in lines
    assert "crash._inside" in lines
    assert SECRET not in lines
