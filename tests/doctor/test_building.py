"""Building a `DBOSAgent` or a `DBOSFlow` makes the same check."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
from crewai import Agent
from crewai.flow.flow import Flow, listen, start
from crewai.tools import tool
from dbos import DBOS

from crewai_dbos import DBOSAgent, DBOSFlow
from support.names import unique


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


def test_an_object_that_can_not_be_read_breaks_no_agent(caplog: pytest.LogCaptureFixture) -> None:
    class Odd:
        def __call__(self, step: Any) -> None: ...

        @property
        def __wrapped__(self) -> Any:
            raise RuntimeError("not to be looked at")

    agent = build(step_callback=Odd())
    assert agent.agent_name
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


class Late(Flow):
    @start()
    def begin(self) -> None:
        self.state["at"] = time.time()

    @listen(begin)
    def write(self) -> None:
        with open("out", "w") as out:
            out.write("x")


def test_warnings_about_a_flow_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        DBOSFlow(flow_name=unique("built"), orig_flow=Late)
    (message,) = messages(caplog)
    assert message.startswith("Method 'begin' itself calls time.time (line ")
    assert "crewai_dbos.now()" in message


def test_a_flow_that_can_not_be_read_is_built(caplog: pytest.LogCaptureFixture) -> None:
    class Odd(dict[str, Any]):
        def values(self) -> Any:
            raise RuntimeError("not to be looked at")

    odd = {"odd": Odd(a=1)}

    class Strange(Late):
        initial_state = odd

        @start()
        def begin(self) -> None: ...

    assert DBOSFlow(flow_name=unique("built"), orig_flow=Strange).flow_name
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
