"""An agent that is not what the run was recorded with."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID

from agent.helpers import clerk, echo, job
from crewai_dbos import DBOSAgent, DriftError
from crewai_dbos.testing import ModelServer, Reply, Request, ToolCall, text, tool_calls
from support.names import unique


def test_other_prompts_use_the_record_and_say_so_once(caplog: pytest.LogCaptureFixture) -> None:
    @tool
    @DBOS.step()
    def peek(key: str) -> str:
        """Peek."""
        return f"saw {key}"

    def script(request: Request) -> Reply:
        if request.tool_results:
            return text("Seen.")
        return tool_calls(ToolCall("peek", {"key": "a"}))

    with ModelServer(script) as server:
        orig = clerk(server, tools=[peek])
        agent = DBOSAgent(agent_name=unique("drifting"), orig_agent=orig)
        run_id = unique("drift")
        with SetWorkflowID(run_id):
            agent.execute_task(job())
        orig.backstory = "Rewritten."
        fork = DBOS.fork_workflow(run_id, 10_000).get_workflow_id()
        with caplog.at_level(logging.WARNING, logger="crewai_dbos"):
            assert agent.retrieve(fork).get_result() == "Seen."
        assert caplog.text.count("recorded with other messages") == 1
        assert len(server.requests) == 2


def test_a_structural_change_stops_the_run_until_the_code_is_put_right() -> None:
    def check(output: Any) -> tuple[bool, Any]:
        return True, output.raw

    with ModelServer(echo) as server:
        orig = clerk(server, inject_date=True, guardrail=check)
        agent = DBOSAgent(agent_name=unique("restructured"), orig_agent=orig)
        run_id = unique("structure")
        with SetWorkflowID(run_id):
            answer = agent.kickoff("Hello.").raw
        orig.inject_date = False
        fork = DBOS.fork_workflow(run_id, 10_000).get_workflow_id()
        with pytest.raises(
            DriftError, match=r"next comes agent:.*/date#1, but .*/llm#1 was called"
        ):
            agent.retrieve(fork).get_result()
        status = agent.retrieve(fork).get_status()
        assert status.status == "CANCELLED"
        assert "next comes" in status.attributes["crewai_dbos"]["stopped"]
        orig.inject_date = True
        DBOS.resume_workflow(fork)
        assert agent.retrieve(fork).get_result().raw == answer
        assert len(server.requests) == 1
