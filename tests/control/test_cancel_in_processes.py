"""A run is cancelled from another process than the one that carries it out, and goes on in a third.

Nothing of it was in the process that has cancelled it, and one may be killed in between.
"""

from __future__ import annotations

import os
import time
from itertools import product
from pathlib import Path

import pytest

from crewai_dbos.control import Control
from crewai_dbos.testing import Hang, ModelServer, Reply, Request, hang, text
from people.conftest import until
from support.databases import some_here
from support.python import Program

PROGRAM = """
import sys
from crewai import Agent, Crew, Task
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID
from crewai_dbos import DBOSCrew
from crewai_dbos.errors import RunCancelledError

def build():
    clerk = Agent(role="Clerk", goal="Work", backstory="Old.", llm="gpt-4o-mini")
    tasks = [
        Task(description=f"Job {n}", expected_output="A line", agent=clerk) for n in (1, 2)
    ]
    return Crew(agents=[clerk], tasks=tasks)

crew = DBOSCrew(crew_name="crew", orig_crew=build)
config = {"name": "processes", "application_version": "1", "log_level": "WARNING"}
DBOS(config={**config, "system_database_url": sys.argv[1]})
DBOS.launch()
try:
    with SetWorkflowID("order-12"):
        print("result", crew.kickoff().raw, flush=True)
except RunCancelledError as error:
    print("cancelled", error.by, error.reason, flush=True)
DBOS.destroy()
"""


@pytest.mark.crash
@pytest.mark.parametrize(
    ("killed", "database_url"),
    some_here(
        product([False, True], ["sqlite", "postgres"]), [(False, "postgres"), (True, "sqlite")]
    ),
    indirect=["database_url"],
)
def test_from_another_process(killed: bool, database_url: str, tmp_path: Path) -> None:
    held = hang(text("Late."))
    (tmp_path / "program.py").write_text(PROGRAM)

    def model(request: Request) -> Reply | Hang:
        return text("One.") if "Job 1" in request.last_user_text else held

    with ModelServer(model) as server:
        env = {**os.environ, **server.env}

        def program() -> Program:
            return Program("program.py", database_url, folder=tmp_path, env=env)

        first = program()
        held.wait_until_held(timeout=60)
        if killed:
            first.kill()
        with Control(database_url) as control:
            began = time.monotonic()
            control.cancel("order-12", by="ann", reason="Not now")
            if not killed:
                said, log = first.communicate(60)
                assert "cancelled ann Not now" in said
                assert time.monotonic() - began < 15  # with the end of the process
                assert "Traceback" not in log
                assert log.count("crewai-dbos runs resume order-12") == 1
            # Started again, the program hears of it, and makes no call.
            assert "cancelled ann Not now" in program().communicate(60)[0]
            assert len(server.requests) == 2
            control.resume("order-12")
            last = program()
            until(lambda: len(server.requests) == 3)
            held.release()
            said, log = last.communicate(60)
    assert "result Late." in said
    assert "Run order-12 goes on: 1 call from the record." not in log, "that is no warning"
    assert len(server.requests) == 3
