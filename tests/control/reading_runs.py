"""The model, the crews and what is looked at in the tests that read runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.tools import tool
from dbos import DBOS

from crewai_dbos._dbos_seam.stored_runs import StoredRun
from crewai_dbos.control import Node
from crewai_dbos.testing import Reply, Request, ToolCall, text, tool_calls
from support.serving import Serve, serving

ROW = StoredRun(
    run_id="r",
    status="PENDING",
    name="crewai_dbos.crew",
    created_ms=0,
    started_ms=None,
    ended_ms=None,
    deadline_ms=None,
    delay_ms=None,
    attributes={},
    version="v1",
    application="app",
    executor="e",
    queue=None,
    parent=None,
    forked_from=None,
    attempts=1,
    now_ms=0,
)
"""A run at work, as it is stored."""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, url: str) -> Iterator[Serve]:
    yield from serving(monkeypatch, answering)


def answering(request: Request) -> Reply:
    """A model that looks something up where it has the tool, and is done then."""
    if request.tools and not request.tool_results:
        return tool_calls(ToolCall("look_up", {"what": "tea"}))
    return text("done")


@tool("look_up")
def look_up(what: str) -> str:
    """Look something up."""
    return f"{what}: found"


def clerk(**options: Any) -> Agent:
    options.setdefault("role", "Clerk")
    return Agent(goal="Work", backstory="Old.", llm="gpt-4o-mini", **options)


def crew_of(*tasks: str, **options: Any) -> Callable[[], Crew]:
    """What builds a crew of one agent with these tasks."""

    def build() -> Crew:
        agent = clerk(**options)
        made = [Task(name=t, description=t, expected_output="x", agent=agent) for t in tasks]
        return Crew(agents=[agent], tasks=made)

    return build


def names(nodes: tuple[Node, ...]) -> Any:
    """The names in a tree, as nested lists of names and what is inside."""
    return [(node.name, names(node.children)) if node.children else node.name for node in nodes]


def find(nodes: tuple[Node, ...], path: str) -> Node:
    """The node with this path."""
    found = [node for node in every(nodes) if node.path == path]
    assert found, [node.path for node in every(nodes)]
    return found[0]


def every(nodes: tuple[Node, ...]) -> Iterator[Node]:
    for node in nodes:
        yield node
        yield from every(node.children)


def ended(run_id: str) -> None:
    """Returns when the run has ended, however."""
    try:
        DBOS.retrieve_workflow(run_id).get_result(polling_interval_sec=0.05)
    except Exception:
        return
