"""Where an agent is plain crewAI, or refused."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from dbos import DBOS

from agent.helpers import clerk, echo, job, now
from crewai_dbos import DBOSAgent
from crewai_dbos.testing import ModelServer
from support.names import unique


@DBOS.step()
def agent_in_step() -> str:
    return str(now["agent"].kickoff("Hello.").raw)


@DBOS.workflow()
def workflow_with_agent_in_step() -> str:
    return agent_in_step()


def test_an_agent_inside_a_step_says_that_it_is_not_recorded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with ModelServer(echo) as server:
        name = unique("stepped")
        now["agent"] = DBOSAgent(agent_name=name, orig_agent=clerk(server))
        with caplog.at_level(logging.WARNING, logger="crewai_dbos"):
            assert workflow_with_agent_in_step() == "You said: Current Task: Hello."
        assert f"DBOSAgent '{name}' runs inside a DBOS step" in caplog.text


def test_a_sync_call_in_an_event_loop_is_refused_as_crewai_does() -> None:
    with ModelServer(echo) as server:
        agent = DBOSAgent(agent_name=unique("looped"), orig_agent=clerk(server))

        async def main() -> Any:
            with pytest.raises(RuntimeError, match="aexecute_task"):
                agent.execute_task(job())
            return await agent.kickoff("Hello.")

        assert asyncio.run(main()).raw == "You said: Current Task: Hello."
