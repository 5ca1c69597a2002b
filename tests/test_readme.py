"""The programs of the README and of docs/testing.md run as they stand."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from crewai_dbos.testing import ModelServer, Reply, Request, ToolCall, text, tool_calls
from support.python import python

pytestmark = pytest.mark.crash

README = Path(__file__).parent.parent / "README.md"
TESTING = README.parent / "docs" / "testing.md"

# The last block only configures a Postgres that is not there.
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[:-1]


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
    assert len(answers) == 4
    assert len(server.requests) == 11


def test_the_page_about_testing(tmp_path: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", TESTING.read_text(), re.DOTALL):
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

    with ModelServer(model) as server:
        run("make_recording.py", **server.env)
    assert len(server.requests) == 2
    assert "3 passed" in run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_support.py")
    assert "1" in run("count.py").splitlines()
