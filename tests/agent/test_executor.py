"""DBOSAgentExecutor by itself."""

from __future__ import annotations

import logging

import pytest
from dbos import SetWorkflowID

from agent.helpers import clerk, echo, job
from crewai_dbos import DBOSAgent, DBOSAgentExecutor
from crewai_dbos.testing import ModelServer
from support.names import unique


def test_the_executor_opens_a_run_for_a_durable_agent() -> None:
    with ModelServer(echo) as server:
        agent = DBOSAgent(agent_name=unique("opened"), orig_agent=clerk(server))
        assert agent.executor_class is DBOSAgentExecutor
        task = job(agent=agent)
        agent.create_agent_executor(task=task)
        run_id = unique("executor")
        with SetWorkflowID(run_id):
            result = agent.agent_executor.invoke(
                {"input": "Say it.", "tool_names": "", "tools": ""}
            )
        assert result["output"].startswith("You said")
        assert agent.retrieve(run_id).get_result() == result
        assert len(server.requests) == 1


def test_the_executor_of_an_ordinary_agent_says_that_nothing_is_recorded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with ModelServer(echo) as server:
        agent = clerk(server, executor_class=DBOSAgentExecutor)
        with caplog.at_level(logging.WARNING, logger="crewai_dbos"):
            assert agent.execute_task(job()) == "You said: Current Task: Do it."
        assert "is no DBOSAgent" in caplog.text
