"""Agents, tasks and answers that the tests of DBOSAgent share."""

from __future__ import annotations

from typing import Any

from crewai import LLM, Agent, Task
from dbos import DBOS

from crewai_dbos.testing import ModelServer, Reply, Request, text

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
