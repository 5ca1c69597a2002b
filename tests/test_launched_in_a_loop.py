"""DBOS that is launched where an event loop runs, as in a notebook: it hands coroutines to that."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from crewai import LLM, Agent
from crewai.flow.flow import Flow, start
from crewai.tools import tool
from dbos import DBOS

from crewai_dbos import DBOSFlow, StepConfig
from crewai_dbos.testing import ModelServer, Reply, Request, ToolCall, text, tool_calls
from support.launching import launched
from support.names import unique


@tool
@DBOS.step()
async def wait_a_little(key: str) -> str:
    """Wait."""
    await asyncio.sleep(0)
    return f"waited for {key}"


def script(request: Request) -> Reply:
    if request.tool_results:
        return text(request.tool_results[-1][1])
    return tool_calls(ToolCall("wait_a_little", {"key": "a"}))


@pytest.mark.parametrize("config", [None, StepConfig(timeout_seconds=60)], ids=repr)
def test_a_sync_kickoff_does_not_wait_for_the_loop_that_it_blocks(
    config: StepConfig | None, tmp_path: Path
) -> None:
    with ModelServer(script) as server:
        llm = LLM(model="openai/gpt-4o-mini", api_key="key", base_url=server.base_url)

        class Asking(Flow[dict[str, Any]]):
            @start()
            def ask(self) -> str:
                clerk = Agent(role="C", goal="G", backstory="B", llm=llm, tools=[wait_a_little])
                return str(clerk.kickoff("Wait.").raw)

        flow = DBOSFlow(flow_name=unique("asking"), orig_flow=Asking, llm_step_config=config)

        async def cell() -> Any:
            with launched(f"sqlite:///{tmp_path}/dbos.sqlite"):
                return flow.kickoff()

        assert asyncio.run(cell()) == "waited for a"
