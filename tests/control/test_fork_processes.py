"""A run whose process was killed is forked by a process without its code, and done by a third."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOSClient

from crewai_dbos.testing import ModelServer, Request
from crews.scenarios import answer, asked
from support.databases import some_here
from support.python import Program, python

pytestmark = pytest.mark.crash

PROGRAM = """
import sys

from crewai import Agent, Crew, Task
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSCrew

writer = Agent(role="Writer", goal="Write", backstory="Diligent.", llm="gpt-4o-mini")
three = [
    Task(name=what, description=what, expected_output="A text", agent=writer, async_execution=True)
    for what in ("Rivers", "Otters", "Boats")
]
last = Task(name="sum", description="Sum up", expected_output="A text", agent=writer, context=three)
crew = DBOSCrew(crew_name="research", orig_crew=Crew(agents=[writer], tasks=[*three, last]))
DBOS(config={"name": "forks", "system_database_url": sys.argv[2], "log_level": "CRITICAL"})
DBOS.launch()
if sys.argv[1] == "begin":
    with SetWorkflowID("run"):
        crew.kickoff()
else:
    for run_id in sys.argv[3:]:
        print(run_id, [output.raw for output in crew.retrieve(run_id).get_result().tasks_output])
DBOS.destroy()
"""

COMMAND_LINE = ["-c", "from crewai_dbos.cli import main; main()", "runs", "fork", "run", "--json"]
COMMAND_LINE += ["--edit", 'task:Otters="Otters swim."']


@pytest.mark.parametrize(
    "database_url", some_here(["sqlite", "postgres"], ["postgres"]), indirect=True
)
def test_forked_in_the_middle_of_async_tasks(database_url: str, tmp_path: Path) -> None:
    alive, killed = threading.Event(), threading.Event()

    def script(request: Request) -> Any:
        if asked(request) == "Boats" and not killed.is_set():
            alive.set()
            killed.wait(60)
        return answer(request)

    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with ModelServer(script) as server:
        env = {**os.environ, **server.env}
        first = Program(program, "begin", database_url, folder=tmp_path, env=env)
        assert alive.wait(60)
        until_recorded(database_url, "task:1.Rivers", "task:2.Otters")
        first.kill()
        killed.set()
        told = python(*COMMAND_LINE, "--db-url", database_url, folder=tmp_path, env=env)
        assert told.returncode == 0, told.stderr
        fork = json.loads(told.stdout)["run_id"]
        done = python(program, "work", database_url, fork, "run", folder=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    forked, run = done.stdout.splitlines()
    assert ("Otters swim." in forked, "Otters swim." in run) == (True, False)
    requests = Counter(asked(request) for request in server.requests)
    assert requests == {"Rivers": 1, "Otters": 1, "Boats": 3, "Sum up": 2}


def until_recorded(database_url: str, *tasks: str) -> None:
    client = DBOSClient(system_database_url=database_url)
    end = time.monotonic() + 60
    while True:
        found = [step["function_name"] for step in client.list_workflow_steps("run")]
        if all(any(f"{task}#1/agent" in name for name in found) for task in tasks):
            break
        assert time.monotonic() < end, found
        time.sleep(0.05)
    client.destroy()
