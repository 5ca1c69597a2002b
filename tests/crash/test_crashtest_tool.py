"""The crash matrix as users have it: a pytest mark, a command, and verdicts that can be trusted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crash import models
from crash.names import ASK
from crewai_dbos.testing.crash import CrashTest, Verdict

CLI = [sys.executable, "-m", "crewai_dbos.cli", "crashtest"]
TESTS = Path(__file__).parent.parent


@pytest.mark.crash_matrix(
    "crash.application:native_postman",
    {"messages": ASK},
    model="crash.models:ann_and_bob",
    positions=3,
    seed=1,
)
def test_the_mark_makes_a_test_of_each_position(
    crash_run: Verdict, request: pytest.FixtureRequest
) -> None:
    assert crash_run.ok, crash_run
    assert f"[{crash_run.positions[0]}]" in request.node.name
    assert crash_run.observed.deaths == 1
    assert {effect.fields["to"] for effect in crash_run.observed.effects} == {"Ann", "Bob"}


def test_a_journal_by_order_of_arrival_fails() -> None:
    """Parallel calls whose results are swapped after a crash are not taken for survivors."""
    script = models.letters(["Ann", "Bob"])
    order = {"messages": ASK}
    with CrashTest("crash.broken:native_postman", order, model=script) as broken:
        assert [e.fields["to"] for e in broken.undisturbed.effects]
        verdicts = list(broken.run_all(broken.positions(), 6))
    failed = [verdict for verdict in verdicts if not verdict.ok]
    assert failed
    assert any(not verdict.result_equal for verdict in failed)


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, *arguments], capture_output=True, text=True, timeout=280, cwd=folder, check=False
    )


PROGRAM = '''
from crewai import Agent
from crewai.tools import tool
from dbos import DBOS

from crewai_dbos import DBOSAgent
from crewai_dbos.testing import ToolCall, report_effect, text, tool_calls


@tool
{decorator}
def send_email(to: str) -> str:
    """Send an email."""
    report_effect("email", to=to)
    return f"sent to {{to}}"


def script(request):
    if request.tool_results:
        return text("Done.")
    return tool_calls(ToolCall("send_email", {{"to": "ann"}}))


agent = DBOSAgent(
    agent_name="support",
    orig_agent=lambda: Agent(
        role="Support", goal="Help", backstory="Kind.", llm="openai/gpt-4o-mini", tools=[send_email]
    ),
)
'''


def test_the_command_says_what_survived_and_what_did_not(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(PROGRAM.format(decorator="@DBOS.step()"))
    (tmp_path / "bad.py").write_text(PROGRAM.format(decorator=""))
    options = ["--inputs", '{"messages": "Go."}', "--positions", "3"]

    good = command("good:agent", "--model", "good:script", *options, folder=tmp_path)
    assert good.returncode == 0, good.stdout + good.stderr
    assert "3 of 3 survived" in good.stdout

    bad = command("bad:agent", "--model", "bad:script", *options, "--json", folder=tmp_path)
    assert bad.returncode == 1, bad.stdout + bad.stderr
    figures: dict[str, Any] = json.loads(bad.stdout)
    assert figures["repeated"] == 0
    assert figures["survived"] < figures["positions"] == 3
    again = [run["effects_repeated"] for run in figures["runs"] if not run["ok"]]
    assert ['email {"to": "ann"}'] in again

    for arguments, told in (
        (["good"], "write module:name"),
        (["good:nobody"], "has no 'nobody'"),
        (["good:agent", "--inputs", "{"], "Expecting"),
    ):
        wrong = command(*arguments, folder=tmp_path)
        assert wrong.returncode == 2, wrong.stdout + wrong.stderr
        assert told in wrong.stderr
