"""Building a `DBOSAgent` makes the same check."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
from crewai import Agent
from crewai.tools import tool
from dbos import DBOS

from agent.helpers import unique
from crewai_dbos import DBOSAgent


def build(**options: Any) -> DBOSAgent:
    given = {"role": "Clerk", "goal": "Work", "backstory": "Kind.", "llm": "openai/gpt-4o-mini"}
    agent = Agent(**{**given, **options})
    return DBOSAgent(agent_name=unique("built"), orig_agent=agent)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "crewai_dbos"]


def test_a_warning_is_logged_with_its_fix(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOOR_PASSWORD", "hunter2hunter2")
    agent = build(backstory="You know that it is hunter2hunter2.")
    (message,) = messages(caplog)
    assert f"agent {agent.agent_name!r}" in message
    assert "DOOR_PASSWORD" in message
    assert "hunter2hunter2" not in message
    assert message.endswith("read it inside the tool that needs it.")


def test_a_finding_about_the_process_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    DBOS(config={"name": "workflows", "log_level": "CRITICAL"})
    for name in ("one", "two"):
        DBOS.workflow(name=name)(lambda: None)
        build()
    assert [m.partition(" is not")[0] for m in messages(caplog)] == ["The application_version"]


def test_hints_and_what_the_first_call_says_are_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @tool
    def plain(key: str) -> str:
        """Not recorded."""
        return key

    build(tools=[plain], step_callback=print)
    assert messages(caplog) == []


def test_it_takes_a_few_milliseconds() -> None:
    @tool
    @DBOS.step()
    def send(to: str, how: str = "fast") -> str:
        """Send."""
        return to

    tools = [send.model_copy(update={"name": f"send {n}"}) for n in range(10)]
    seconds = []
    for _ in range(10):
        agent = Agent(
            role="r", goal="g", backstory="b" * 5000, llm="openai/gpt-4o-mini", tools=tools
        )
        began = time.perf_counter()
        DBOSAgent(agent_name=unique("fast"), orig_agent=agent)
        seconds.append(time.perf_counter() - began)
    assert sorted(seconds)[5] < 0.02, "0.4 ms on two idle cores"


def test_an_object_that_can_not_be_read_breaks_no_agent(caplog: pytest.LogCaptureFixture) -> None:
    class Odd:
        def __call__(self, step: Any) -> None: ...

        @property
        def __wrapped__(self) -> Any:
            raise RuntimeError("not to be looked at")

    agent = build(step_callback=Odd())
    assert agent.agent_name
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
