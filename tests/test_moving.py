"""The programs of docs/moving.md run as they stand, after a run that they speak of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crewai_dbos.testing import ModelServer, text
from pages.blocks import blocks
from support.python import python

pytestmark = pytest.mark.crash

BEFORE = """
from crewai import Agent, Crew, Task
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSCrew

agent = Agent(role="Clerk", goal="Work", backstory="Diligent.", llm="openai/gpt-4o-mini")
tasks = [
    Task(name=name, description=f"{name} {{topic}}", expected_output="A text", agent=agent)
    for name in ("research", "write")
]
research = DBOSCrew(crew_name="research", orig_crew=Crew(agents=[agent], tasks=tasks))
DBOS(config={"name": "moving"})
DBOS.launch()
with SetWorkflowID("otters"):
    research.kickoff(inputs={"topic": "otters"})
"""

AFTER = """
run_id = submit("badgers")
assert submit("badgers") == run_id == submit_to_workers("badgers")
print(research.retrieve(run_id).get_result().raw, state(run_id))
import asyncio

asyncio.run(research.akickoff({"topic": "voles"}))
assert len(jobs()) == 4
assert "otters SUCCESS" in jobs()
import time

with Control("sqlite:///moving.sqlite") as control:
    while not control.requests(run_id="letter-7"):
        time.sleep(0.05)
answer("letter-7", "send")
assert run.get_result() == "sent"
"""


def test_the_blocks_run(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("\n".join([BEFORE, *blocks("docs/moving.md"), AFTER]))
    with ModelServer(lambda request: text("Done.")) as server:
        done = python(program, folder=tmp_path, env={**os.environ, **server.env})
        assert done.returncode == 0, done.stderr
        # Two for the first run, one for the fork from its second task, two for each job, and
        # one for the letter.
        assert len(server.requests) == 8
    said = [line for line in done.stdout.splitlines() if line.startswith("Done.")]
    assert said == ["Done.", "Done. SUCCESS"]
    assert done.stdout.count("--> Ann: Done.") == 1
