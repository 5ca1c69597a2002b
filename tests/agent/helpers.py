"""Agents, tasks and answers that the tests of DBOSAgent share."""

from __future__ import annotations

import asyncio
from typing import Any

from crewai import LLM, Agent, Task
from crewai.tools import tool
from dbos import DBOS

from crewai_dbos.testing import ModelServer, Reply, Request, ToolCall, text, tool_calls

now: dict[str, Any] = {}
"""What the workflows use, as a workflow is not handed an agent or a model."""

trace: list[str] = []


def model(server: ModelServer, **options: Any) -> Any:
    return LLM(model="openai/gpt-4o-mini", api_key="sk-test", base_url=server.base_url, **options)


def clerk(server: ModelServer, **options: Any) -> Agent:
    options.setdefault("llm", model(server))
    return Agent(role="Clerk", goal="Work", backstory="Diligent.", **options)


def job(**options: Any) -> Task:
    return Task(description="Do it.", expected_output="A text.", **options)


def echo(request: Request) -> Reply:
    return text(f"You said: {request.last_user_text.split('.')[0].strip()}.")


@tool
@DBOS.step()
async def wait_a_little(key: str) -> str:
    """Wait."""
    await asyncio.sleep(0)
    return f"waited for {key}"


def waits(request: Request) -> Reply:
    """A model that has a tool wait, and says what that has said."""
    if request.tool_results:
        return text(request.tool_results[-1][1])
    return tool_calls(ToolCall("wait_a_little", {"key": "a"}))


@DBOS.step()
def note(what: str) -> str:
    trace.append(what)
    return what


def replays(run_id: str, server: ModelServer) -> None:
    """Forks of the run from every step give its result and repeat nothing recorded."""
    steps = DBOS.list_workflow_steps(run_id)
    expected = DBOS.retrieve_workflow(run_id).get_result()
    notes, requests = len(trace), len(server.requests)
    end = DBOS.fork_workflow(run_id, steps[-1]["function_id"] + 1)
    assert end.get_result() == expected
    assert (len(trace), len(server.requests)) == (notes, requests)
    forks = [DBOS.fork_workflow(run_id, step["function_id"]) for step in steps]
    assert all(fork.get_result() == expected for fork in forks)
