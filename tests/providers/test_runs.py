"""Agents on every provider: the same as crewAI alone, and nothing is asked twice on recovery."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
from crewai import Agent
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSAgent, StepConfig
from crewai_dbos.testing import ToolCall, text, tool_calls
from providers.conftest import Serve
from providers.models import PROVIDERS
from providers.server import Asked, ProviderServer, Reply, Script
from support.names import unique

found: list[str] = []
"""What the tool was asked."""


@tool
def search(query: str) -> str:
    """Search for something."""
    found.append(query)
    return f"found {query}"


def one_after_the_other(asked: Asked) -> Reply:
    if asked.turns < 2:
        return tool_calls(ToolCall("search", {"query": ("otters", "badgers")[asked.turns]}))
    return text(f"Answer of {len(asked.results)}.")


def at_once(asked: Asked) -> Reply:
    if asked.turns < 1:
        queries = ({"query": "otters"}, {"query": "badgers"})
        return tool_calls(*(ToolCall("search", query) for query in queries))
    return text(f"Answer of {len(asked.results)}.")


def just_an_answer(asked: Asked) -> Reply:
    return text("Answer of 0.")


SCRIPTS: dict[str, Script] = {"sequential": one_after_the_other, "parallel": at_once}


@pytest.fixture(autouse=True)
def nothing_found() -> None:
    found.clear()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the package has logged."""
    caplog.set_level(logging.INFO, "crewai_dbos")
    return lambda: [r.getMessage() for r in caplog.records if r.name.startswith("crewai_dbos")]


def clerk(provider: str, **options: Any) -> Agent:
    llm = PROVIDERS[provider].build(**options)
    return Agent(role="Clerk", goal="Work", backstory="Diligent.", llm=llm, tools=[search])


def durable(agent: Agent) -> DBOSAgent:
    return DBOSAgent(agent_name=unique("clerk"), orig_agent=agent, tool_step_config=StepConfig())


def check_as_plain(
    provider: str, server: ProviderServer, ask: Callable[[Any], Any], **options: Any
) -> str:
    """A run asks and gets what crewAI alone does. Its id."""
    expected = ask(clerk(provider, **options))
    requests, queries = [asked.text for asked in server.requests], sorted(found)
    server.requests.clear()
    found.clear()
    run_id = unique("run")
    with SetWorkflowID(run_id):
        output = ask(durable(clerk(provider, **options)))
    assert [asked.text for asked in server.requests] == requests
    assert sorted(found) == queries
    assert output.raw == expected.raw
    assert output.usage_metrics == expected.usage_metrics
    return run_id


def without_addresses(result: Any) -> str:
    """A result of a run in which the ids that crewAI makes from addresses are equal."""
    return re.sub(r"call_[0-9]{8,}", "call", json.dumps(result, sort_keys=True))


def check_forks(run_id: str, server: ProviderServer) -> None:
    """From wherever a run goes on, it asks what is left of an undisturbed run, and no more."""
    requests = [asked.text for asked in server.requests]
    queries = sorted(found)
    steps = DBOS.list_workflow_steps(run_id)
    expected = DBOS.retrieve_workflow(run_id).get_result()
    for start in [1, *(step["function_id"] + 1 for step in steps)]:
        server.requests.clear()
        found.clear()
        fork = DBOS.fork_workflow(run_id, start)
        assert without_addresses(fork.get_result()) == without_addresses(expected), start
        kept = [step["function_name"] for step in steps if step["function_id"] < start]
        answered = sum("llm#" in name for name in kept)
        searched = sum("tool:search" in name and "around" not in name for name in kept)
        assert [asked.text for asked in server.requests] == requests[answered:], start
        assert len(found) == len(queries) - searched, start


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_tools(provider: str, script: str, serve: Serve, said: Callable[[], list[str]]) -> None:
    server = serve(provider, SCRIPTS[script])
    run_id = check_as_plain(provider, server, lambda agent: agent.kickoff("Find out."))
    assert len(found) == 2
    check_forks(run_id, server)
    assert [message for message in said() if "recorded" in message] == []
