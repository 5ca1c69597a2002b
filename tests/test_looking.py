"""Looking at runs of another process: a client recovers nothing, and a launch says what it does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow, start
from dbos import DBOS, DBOSClient, SetWorkflowID
from pydantic import BaseModel

from crewai_dbos import DBOSAgent, DBOSCrew, DBOSFlow
from crewai_dbos.errors import EventLoopError, NotLaunchedError, RunCancelledError, RunNotFoundError
from crewai_dbos.testing import EffectLog, text
from crewai_dbos.testing.effects import EFFECTS
from support.databases import sqlite_here
from support.launching import launched, launched_in
from support.names import unique
from support.python import Program
from support.serving import Serve, serving


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    yield from serving(monkeypatch, lambda request: text("Yes."))


def clerk() -> Agent:
    return Agent(role="Clerk", goal="Answer", backstory="Old", llm="gpt-4o-mini")


def one_task() -> Crew:
    agent = clerk()
    task = Task(description="Answer", expected_output="A line", agent=agent)
    return Crew(agents=[agent], tasks=[task])


class Letter(BaseModel):
    to: str


class Letters(Flow[dict[str, Any]]):
    @start()
    def one(self) -> Letter:
        if self.state.get("fail"):
            raise ValueError("No paper.")
        return Letter(to="Ann")


@sqlite_here("database_url")
def test_a_client_has_all_that_a_launched_process_has(serve: Serve, database_url: str) -> None:
    serve()
    agent = DBOSAgent(agent_name=unique("clerk"), orig_agent=clerk())
    crew = DBOSCrew(crew_name=unique("crew"), orig_crew=one_task())
    flow = DBOSFlow(flow_name=unique("flow"), orig_flow=Letters)
    with launched(database_url):
        for durable, ask in (
            (agent, lambda: agent.kickoff("Really?")),
            (crew, crew.kickoff),
            (flow, flow.kickoff),
        ):
            with SetWorkflowID(type(durable).__name__):
                ask()
        with SetWorkflowID("failed"), pytest.raises(ValueError, match="paper"):
            flow.kickoff({"fail": True})
        with SetWorkflowID("pending"):
            DBOS.start_workflow(waits_for_ever)
        DBOS.cancel_workflow("pending")
    with pytest.raises(NotLaunchedError, match="client=DBOSClient"):
        crew.retrieve("DBOSCrew").get_result()
    client = DBOSClient(system_database_url=database_url)
    try:
        assert agent.retrieve("DBOSAgent", client=client).get_result().raw == "Yes."
        run = crew.retrieve("DBOSCrew", client=client)
        assert run.get_result().raw == "Yes."
        assert run.get_status().status == "SUCCESS"
        assert flow.retrieve("DBOSFlow", client=client).get_result() == Letter(to="Ann")
        with pytest.raises(ValueError, match="paper"):
            flow.retrieve("failed", client=client).get_result()
        with pytest.raises(RunCancelledError):
            crew.retrieve("pending", client=client).get_result()
        for ask in (
            crew.retrieve("nope", client=client).get_result,
            crew.retrieve("nope", client=client).get_status,
        ):
            with pytest.raises(RunNotFoundError):
                ask()
    finally:
        client.destroy()


PROGRAM = """
import sys
from crewai.flow.flow import Flow, start
from dbos import DBOS, DBOSClient, SetWorkflowID
from crewai_dbos import DBOSFlow, step
from crewai_dbos.testing import report_effect

def send():
    report_effect("sent")
    print("sending", flush=True)
    open("go").read()
    return "sent"

class Letters(Flow):
    @start()
    def one(self):
        return step(send)

letters = DBOSFlow(flow_name="letters", orig_flow=Letters)
if sys.argv[1:] == ["look"]:
    client = DBOSClient(system_database_url="sqlite:///letters.sqlite")
    run = letters.retrieve("otters", client=client)
    print(run.get_status().status, flush=True)
    print(run.get_result(), flush=True)
else:
    DBOS(config={"name": "letters", "log_level": "CRITICAL"})
    DBOS.launch()
    with SetWorkflowID("otters"):
        print(letters.kickoff(), flush=True)
"""


@pytest.mark.crash
def test_a_run_at_work_is_looked_at_from_another_process(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    log = EffectLog(tmp_path / "effects")

    os.mkfifo(tmp_path / "go")  # where the first process waits

    def process(*arguments: str) -> Program:
        env = {**os.environ, EFFECTS: str(log.path)}
        return Program("program.py", *arguments, folder=tmp_path, env=env)

    working = process()
    working.says("sending")
    looking = process("look")
    looking.says("PENDING")
    (tmp_path / "go").write_text("go")
    assert "sent" in looking.communicate(timeout=60)[0]
    working.communicate(timeout=60)
    assert log.count("sent") == 1


@DBOS.workflow()
def waits_for_ever() -> None:
    DBOS.recv("never", timeout_seconds=600)


def test_in_an_event_loop(serve: Serve, tmp_path: Path) -> None:
    serve()
    crew = DBOSCrew(crew_name=unique("crew"), orig_crew=one_task())

    async def cell() -> Any:
        run = crew.start()
        with pytest.raises(EventLoopError, match=r"await run.get_result_async\(\)"):
            run.get_result()
        result = await run.get_result_async()
        assert run.get_status().status == "SUCCESS"
        return result

    with launched_in(tmp_path):
        assert asyncio.run(cell()).raw == "Yes."
