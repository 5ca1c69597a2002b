"""One DBOS for all tests of what is offered over HTTP, and an application around it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.tools import tool
from dbos import DBOS
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.testclient import TestClient

from crewai_dbos import DBOSCrew, People, ask
from crewai_dbos.control import Control
from crewai_dbos.http import router
from crewai_dbos.testing import Request, ToolCall, text, tool_calls
from support.controlling import one_dbos
from support.names import unique
from support.serving import Serve, serving

TOKEN = "kq3vN1mU8sT5xY2zB7aC"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests in a browser are left out where there is none; `make test` says so."""
    in_browser = [item for item in items if item.get_closest_marker("browser")]
    if not in_browser:
        return
    from front.browsing import found  # with what drives one

    if found() is None:
        config.hook.pytest_deselected(items=in_browser)
        items[:] = [item for item in items if item not in in_browser]


class Account(BaseModel):
    number: int


@tool("send")
def send(to: str, count: int = 1) -> str:
    """Send it."""
    return f"sent to {to} {count} times"


@tool("refund")
def refund(customer: str) -> str:
    """Refund."""
    account = ask(f"Which account has {customer}?", schema=Account, audience="books")
    return f"paid to {account.number}"


def sending(request: Request) -> Any:
    """Calls the tool that the agent has, once, and then says what came of it."""
    if request.tools and not request.tool_results:
        name = request.tools[0]["function"]["name"]
        arguments = {"to": "ann"} if name == "send" else {"customer": "ann"}
        return tool_calls(ToolCall(name, arguments))
    done = request.tool_results[-1][1] if request.tool_results else "otters"
    return text(f"Done: {done}")


@pytest.fixture(scope="package", params=["sqlite"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with one_dbos(request, tmp_path_factory) as url:
        yield url


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch, url: str) -> Iterator[Serve]:
    for serve in serving(monkeypatch, sending):
        serve()
        yield serve


def crew(*tools: Any, human: bool = False, **options: Any) -> DBOSCrew:
    def build() -> Crew:
        clerk = Agent(
            role="Clerk", goal="Work", backstory="Old.", llm="gpt-4o-mini", tools=[*tools]
        )
        return Crew(
            agents=[clerk],
            tasks=[
                Task(
                    name="job",
                    description="Work on {topic}.",
                    expected_output="A line.",
                    agent=clerk,
                    human_input=human,
                )
            ],
        )

    return DBOSCrew(crew_name=unique("crew"), orig_crew=build, events=True, **options)


def approved(**options: Any) -> DBOSCrew:
    return crew(send, people=People(approve_tools=["send"], linger=0.05, **options))


def over(run_id: str) -> None:
    """Returns when a run has ended, in whatever way. To ask over HTTP takes ten times as long."""
    with contextlib.suppress(Exception):
        DBOS.retrieve_workflow(run_id).get_result()


def client_of(control: Control, *definitions: Any, **options: Any) -> TestClient:
    """An application with the router at ``/crews``."""
    options = options or {"tokens": [TOKEN]}
    app = FastAPI()
    app.include_router(router(control, definitions=definitions, **options), prefix="/crews")
    headers = BEARER if "tokens" in options else {}
    return TestClient(
        app,
        base_url="http://localhost/crews/",
        headers=headers,
        client=("127.0.0.1", 50000),
        raise_server_exceptions=False,
    )
