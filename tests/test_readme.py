"""The programs and the diffs of the README, and docs/testing.md, run as they stand."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from crewai_dbos.testing import (
    EffectLog,
    ModelServer,
    Reply,
    Request,
    ToolCall,
    hang,
    text,
    tool_calls,
)
from crewai_dbos.testing.effects import EFFECTS
from pages.blocks import blocks
from support.python import Program, python

pytestmark = pytest.mark.crash

README = Path(__file__).parent.parent / "README.md"

# The last block only configures a Postgres that is not there.
BLOCKS = blocks("README.md")[:-1]


def script(request: Request) -> Reply:
    if request.tool_results or "ticket 7" not in request.last_user_text:
        return text("Dear customer.")
    return tool_calls(ToolCall("send_email", {"to": "a@example.com", "body": "Soon."}))


def test_the_blocks_run_one_after_the_other_as_one_program(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("\n".join([*BLOCKS, "with SetWorkflowID('mine'):\n    print(handle(3))\n"]))
    with ModelServer(script) as server:
        done = python(program, folder=tmp_path, env={**os.environ, **server.env})
    assert done.returncode == 0, done.stderr
    answers = [line for line in done.stdout.splitlines() if line == "Dear customer."]
    assert len(answers) == 5
    assert len(server.requests) == 11


DIFFS = re.findall(r"```diff\n(.*?)```", README.read_text(), re.DOTALL)

LEFT_OUT = [
    (
        """
    @tool
    def send_email(to: str, body: str) -> str:
        \"\"\"Send an email.\"\"\"
        report_effect("email")
        return "sent"

    model = "gpt-4o-mini"
    clerk = Agent(role="Clerk", goal="Work", backstory="Old.", llm=model, tools=[send_email])
    task = Task(description="Write about {topic}", expected_output="A reply", agent=clerk)
    return Crew(agents=[clerk], tasks=[task])
"""
    ),
    (
        """
    \"\"\"Send an email.\"\"\"
    report_effect("email")
    return "sent"
"""
    ),
    (
        """
    @start()
    def send(self) -> None:
        step(report_effect, "email")

    @listen(send)
    def report(self) -> str:
        return LLM("gpt-4o-mini").call("What was sent?")
"""
    ),
]
"""What stands for the ``...`` of each diff: one email, and a request to the model after it."""

BEFORE = """
from crewai import LLM
from crewai.tools import tool
from crewai_dbos import step
from crewai_dbos.testing import report_effect
Tickets = dict
"""


@pytest.mark.parametrize("number", range(len(LEFT_OUT)), ids=["crew", "agent", "flow"])
def test_a_program_changed_by_a_diff_is_killed_and_started_again(
    number: int, tmp_path: Path
) -> None:
    assert len(DIFFS) == len(LEFT_OUT)
    lines = [line[1:] for line in DIFFS[number].splitlines() if not line.startswith("-")]
    changed = "\n".join(lines).replace("    ...", LEFT_OUT[number].strip("\n"))
    program = tmp_path / "program.py"
    after = "print(len(DBOS.list_workflows()), 'run')"
    program.write_text("\n".join([BEFORE, changed, after]))
    held = hang(text("Done."))

    def model(request: Request) -> Reply:
        if request.tools and not request.tool_results:
            return tool_calls(ToolCall("send_email", {"to": "ann", "body": "Good morning."}))
        return held

    log = EffectLog(tmp_path / "effects")
    with ModelServer(model) as server:
        env = {**os.environ, **server.env, EFFECTS: str(log.path)}
        killed = Program(program, folder=tmp_path, env=env)
        held.wait_until_held(timeout=60)
        killed.kill()
        killed.communicate(timeout=60)
        held.release()
        done = python(program, folder=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "1 run" in done.stdout
    assert len(log.read()) == 1


def test_the_page_about_testing(tmp_path: Path) -> None:
    for block in blocks("docs/testing.md"):
        name = block.splitlines()[0].removeprefix("# ")
        (tmp_path / name).write_text(block)

    def run(*arguments: str, **env: str) -> str:
        env = {**os.environ, "HOME": str(tmp_path), **env}
        done = python(*arguments, folder=tmp_path, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def model(request: Request) -> Reply:
        if request.tool_results:
            return text("Ann knows.")
        return tool_calls(ToolCall("send_email", {"to": "ann"}))

    pytest = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert "2 passed" in run(*pytest, "test_support.py"), "nothing of the next section is needed"
    with ModelServer(model) as server:
        run("make_recording.py", **server.env)
    assert len(server.requests) == 2
    assert "1 passed" in run(*pytest, "test_recorded.py")
    assert "1" in run("count.py").splitlines()
