"""A durable agent in a user's async workflow, on whatever event loop DBOS runs it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from crewai.memory.unified_memory import Memory
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID

from agent.helpers import clerk, job, model, now, replays, wait_a_little, waits
from agent.test_given import embed, script
from crewai_dbos import DBOSLLM, DBOSAgent, StepConfig
from crewai_dbos.testing import ModelServer, Reply, Request, ToolCall, text, tool_calls
from support.names import unique


@DBOS.workflow()
async def ask() -> Any:
    return await now["agent"].aexecute_task(job())


def start(workflow: Any) -> str:
    """Run `workflow` as DBOS runs it after a restart: on its own event loop."""
    run_id = unique("loop")
    with SetWorkflowID(run_id):
        handle = DBOS.start_workflow(workflow)
    now["answer"] = handle.get_result(polling_interval_sec=0.02)
    return run_id


@pytest.mark.parametrize(
    "config", [StepConfig(timeout_seconds=30), StepConfig(preemptible=True)], ids=repr
)
def test_blocking_code_of_crewai_does_not_wait_for_itself(
    config: StepConfig, tmp_path: Path
) -> None:
    with ModelServer(script) as server:
        memory = Memory(llm=model(server), embedder=embed, storage=str(tmp_path / "memory"))
        now["agent"] = DBOSAgent(
            agent_name=unique("blocking"),
            orig_agent=clerk(server, memory=memory),
            llm_step_config=config,
        )
        run_id = start(ask)
        assert now["answer"] == "no idea"
        replays(run_id, server)


def test_an_async_tool_runs_in_an_async_workflow() -> None:
    with ModelServer(waits) as server:
        now["agent"] = DBOSAgent(
            agent_name=unique("async"), orig_agent=clerk(server, tools=[wait_a_little])
        )
        run_id = start(ask)
        assert now["answer"] == "waited for a"
        replays(run_id, server)


@DBOS.workflow()
async def ask_llm() -> str:
    return str(now["llm"].call("Hello."))


@pytest.mark.parametrize(
    "config", [StepConfig(timeout_seconds=30), StepConfig(preemptible=True)], ids=repr
)
def test_a_sync_request_of_an_async_workflow_does_not_wait_for_itself(config: StepConfig) -> None:
    with ModelServer(script) as server:
        now["llm"] = DBOSLLM(model(server), step_config=config)
        start(ask_llm)
        assert now["answer"] == "no idea"


class Client:
    """As those of databases and servers: it belongs to the loop that it was first used on."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    async def get(self, key: str) -> str:
        self._loop = self._loop or asyncio.get_running_loop()
        answered = self._loop.create_future()
        self._loop.call_later(0.01, answered.set_result, f"value of {key}")
        return str(await answered)


def test_async_tools_of_a_sync_run_share_a_client() -> None:
    client = Client()

    @tool
    @DBOS.step()
    async def get(key: str) -> str:
        """Get it."""
        return await client.get(key)

    def script(request: Request) -> Reply:
        if len(request.tool_results) < 2:
            return tool_calls(ToolCall("get", {"key": str(len(request.tool_results))}))
        return text(" and ".join(found for _, found in request.tool_results))

    with ModelServer(script) as server:
        agent = DBOSAgent(agent_name=unique("sharing"), orig_agent=clerk(server, tools=[get]))
        assert agent.kickoff("Get both.").raw == "value of 0 and value of 1"


def test_a_run_that_its_caller_no_longer_waits_for_stops_working() -> None:
    """And is left to recovery, as DBOS leaves any workflow whose task was cancelled."""
    with ModelServer(script) as server:
        agent = DBOSAgent(agent_name=unique("left"), orig_agent=clerk(server))
        run_id = unique("left")

        async def impatient() -> None:
            with SetWorkflowID(run_id):
                task = asyncio.ensure_future(agent.akickoff("Hello."))
            while await DBOS.get_workflow_status_async(run_id) is None:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(impatient())
        assert agent.retrieve(run_id).get_status().status == "PENDING"
        DBOS.resume_workflow(run_id)
        assert agent.retrieve(run_id).get_result().raw == "no idea"
