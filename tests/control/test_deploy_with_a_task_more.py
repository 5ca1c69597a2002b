"""A release with one task more, over a run that was killed in the middle of the crew."""

from __future__ import annotations

import json
import os
import shlex
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from crewai_dbos.cli import app
from crewai_dbos.control import Control
from crewai_dbos.testing import ModelServer, Request, ToolCall, tool_calls
from crews.scenarios import answer, asked
from people.conftest import until
from support.python import Program

pytestmark = pytest.mark.crash

PROGRAM = """
import sys
import threading

from crewai import Agent, Crew, Task
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSCrew


@tool
def look(what: str) -> str:
    "Look for something."
    with open("looked", "a") as file:
        file.write(what)
    return f"found {what}"


clerk = Agent(
    role="Clerk", goal="Work", backstory="Diligent.", llm="gpt-4o-mini", tools=[look]
)
what = ["Find", "Write"] if sys.argv[1] == "1" else ["Find", "Write", "Review"]
tasks = [Task(name=each, description=each, expected_output="A text", agent=clerk) for each in what]
crew = DBOSCrew(crew_name="support", orig_crew=Crew(agents=[clerk], tasks=tasks))
config = {"name": "deploys", "system_database_url": sys.argv[2], "log_level": "CRITICAL"}
DBOS(config={**config, "application_version": sys.argv[1], "executor_id": sys.argv[3]})
DBOS.launch()
print("launched", flush=True)
if sys.argv[3] == "first":
    with SetWorkflowID("order-12"):
        crew.kickoff()
threading.Event().wait()
"""


def test_the_commands_of_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/dbos.sqlite"
    monkeypatch.setenv("DBOS_SYSTEM_DATABASE_URL", url)
    writing, killed = threading.Event(), threading.Event()

    def script(request: Request) -> Any:
        if asked(request) == "Find" and request.assistant_turns == 0:
            return tool_calls(ToolCall("look", {"what": "otters"}))
        if asked(request) == "Write" and not killed.is_set():
            writing.set()
            killed.wait(60)
        return answer(request)

    (tmp_path / "program.py").write_text(PROGRAM)
    processes: list[Program] = []
    with ModelServer(script) as server:

        def deploy(version: str, executor_id: str) -> Program:
            arguments = (tmp_path / "program.py", version, url, executor_id)
            env = {**os.environ, **server.env}
            processes.append(Program(*arguments, folder=tmp_path, env=env))
            return processes[-1]

        try:
            first = deploy("1", "first")
            assert writing.wait(60)
            first.kill()
            killed.set()
            deploy("2", "second").says("launched")
            given("crewai-dbos runs move order-12 --version 2 --even-if-running")
            with Control(url) as control:
                until(lambda: control.run("order-12").state == "stopped")
                told = str(control.run("order-12").reason)
                before = server.requests.copy()
                fork = json.loads(given(told[told.rindex("crewai-dbos runs fork ") :] + " --json"))
                until(lambda: control.run(fork["run_id"]).state == "done")
                done = control.result_of(fork["run_id"])
                back = "crewai-dbos runs move order-12 --version 1"
                assert f"({back}). Or" in told
                # What the fork has made would be made twice, unless that is said to be meant.
                refused = CliRunner().invoke(app, shlex.split(back)[1:])
                assert refused.exit_code == 1
                assert fork["run_id"] in refused.stderr
                given(f"{back} --even-if-forked")
                deploy("1", "third").says("launched")
                until(lambda: control.run("order-12").state == "done")
        finally:
            for process in processes:
                process.end()
    assert "task 3 ('Review') is new" in told
    assert Counter(map(asked, before)) == {"Find": 2, "Write": 1}
    asked_for = Counter(map(asked, server.requests))
    assert asked_for == {"Find": 2, "Write": 3, "Review": 1}, "one by each of three, and the new"
    assert (tmp_path / "looked").read_text() == "otters", "no finished call was made again"
    assert "Clerk on Review" in str(done)


def given(command: str) -> str:
    program, *arguments = shlex.split(command)
    assert program == "crewai-dbos"
    called = CliRunner().invoke(app, arguments)
    assert called.exit_code == 0, called.output
    return called.stdout
