"""A kickoff without `DBOS.launch()` is plain crewAI, and says so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow, start
from dbos import DBOS

from crewai_dbos import DBOSAgent, DBOSCrew, DBOSFlow, allow_unrecorded, refuse_unrecorded
from crewai_dbos._runs import unrecorded
from crewai_dbos.errors import NotLaunchedError
from crewai_dbos.testing import text
from support.launching import launched_in
from support.names import unique
from support.serving import Serve, serving


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unrecorded, "_told", False)
    monkeypatch.setattr(unrecorded, "_refused", False)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    yield from serving(monkeypatch, lambda request: text("Yes."))


def clerk() -> Agent:
    return Agent(role="Clerk", goal="Answer", backstory="Old", llm="gpt-4o-mini")


def durable_agent() -> DBOSAgent:
    return DBOSAgent(agent_name=unique("clerk"), orig_agent=clerk())


def durable_crew() -> DBOSCrew:
    agent = clerk()
    task = Task(description="Answer", expected_output="A line", agent=agent)
    return DBOSCrew(crew_name=unique("crew"), orig_crew=Crew(agents=[agent], tasks=[task]))


class Greeting(Flow[dict[str, Any]]):
    @start()
    def one(self) -> str:
        return "Good morning."


def durable_flow() -> DBOSFlow:
    return DBOSFlow(flow_name=unique("flow"), orig_flow=Greeting)


def crew_of_durable_agents() -> Crew:
    agent = durable_agent()
    task = Task(description="Answer", expected_output="A line", agent=agent)
    return Crew(agents=[agent], tasks=[task])


KICKOFFS: dict[str, Callable[[], Any]] = {
    "agent": lambda: durable_agent().kickoff("Really?"),
    "agent, async": lambda: asyncio.run(durable_agent().akickoff("Really?")),
    "agent, a task": lambda: durable_agent().execute_task(
        Task(description="Answer", expected_output="A line")
    ),
    "agent in a crew": lambda: crew_of_durable_agents().kickoff(),
    "crew": lambda: durable_crew().kickoff(),
    "crew, async": lambda: asyncio.run(durable_crew().akickoff()),
    "crew, a batch": lambda: durable_crew().kickoff_for_each([{}]),
    "flow": lambda: durable_flow().kickoff(),
    "flow, async": lambda: asyncio.run(durable_flow().akickoff()),
}


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and "NOTHING OF IT IS RECORDED" in record.getMessage()
    ]


@pytest.mark.parametrize("kickoff", KICKOFFS.values(), ids=KICKOFFS)
def test_it_is_said_once(
    kickoff: Callable[[], Any], serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    serve()
    kickoff()
    (line,) = said(caplog)
    assert line.startswith("DBOS")
    assert "DBOS is not launched" in line
    kickoff()
    assert len(said(caplog)) == 1


def test_a_configuration_without_a_launch(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    flow = durable_flow()
    DBOS(config={"name": "forgotten", "system_database_url": f"sqlite:///{tmp_path}/it.sqlite"})
    try:
        flow.kickoff()
    finally:
        DBOS.destroy()
    (line,) = said(caplog)
    assert f"DBOSFlow {flow.flow_name!r} is kicked off" in line
    assert "DBOS is configured, but DBOS.launch() was not called" in line


def test_whoever_means_it_hears_nothing(caplog: pytest.LogCaptureFixture) -> None:
    allow_unrecorded()
    durable_flow().kickoff()
    assert not said(caplog)


@pytest.mark.parametrize("kickoff", KICKOFFS.values(), ids=KICKOFFS)
def test_whoever_refuses_it(kickoff: Callable[[], Any], serve: Serve, tmp_path: Path) -> None:
    model = serve()
    refuse_unrecorded()
    for _ in range(2):
        with pytest.raises(NotLaunchedError, match=r"DBOS is not launched.*Call DBOS\.launch"):
            kickoff()
    assert model.requests == []
    with launched_in(tmp_path):
        kickoff()


def test_nor_does_whoever_has_launched(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with launched_in(tmp_path):
        durable_flow().kickoff()
    assert not said(caplog)
