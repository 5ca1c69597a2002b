"""What becomes of a request that fails, on every provider: as the README promises."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID
from pydantic import BaseModel

from crewai_dbos import DBOSLLM, DBOSCrew, StepConfig
from crewai_dbos.testing import drop, error, structured, text
from providers.conftest import Serve
from providers.models import KEY, PROVIDERS, covering
from providers.server import Asked, ProviderServer, Reply
from providers.wires import AzureWire
from support.names import unique

FAST = StepConfig(retries_allowed=True, max_attempts=5, interval_seconds=0.01)

now: dict[str, Any] = {}


@DBOS.workflow()
def ask_once() -> Any:
    try:
        return now["llm"].call("Hello.", **now["options"])
    except Exception as error:
        now["error"] = error


@DBOS.workflow()
async def ask_once_async() -> Any:
    try:
        return await now["llm"].acall("Hello.", **now["options"])
    except Exception as error:
        now["error"] = error


def asked_async() -> Any:
    return asyncio.run(ask_once_async())


class Person(BaseModel):
    name: str


OBJECT = {"response_model": Person}

WAYS: dict[str, tuple[Callable[[], Any], dict[str, Any], dict[str, Any]]] = {
    "sync": (ask_once, {}, {}),
    "async": (asked_async, {}, {}),
    "stream": (ask_once, {"stream": True}, {}),
    "async stream": (asked_async, {"stream": True}, {}),
    "object": (ask_once, {}, OBJECT),
    "async object": (asked_async, {}, OBJECT),
}
"""How a request is made, with which options of the LLM and of the request."""

# A provider has a client for each.
SYNC = [way for way in WAYS if "async" not in way]
ASYNC = [way for way in WAYS if "async" in way]


def in_order(*replies: Reply) -> Callable[[Asked], Reply]:
    left = list(replies)
    return lambda asked: left.pop(0)


def answer(provider: str, way: str) -> Any:
    """What a recorded request comes to."""
    now.clear()
    how, options, now["options"] = WAYS[way]
    now["llm"] = DBOSLLM(PROVIDERS[provider].build(**options), step_config=FAST)
    with SetWorkflowID(unique("asking")):
        answered = how()
    if "error" in now:
        raise now["error"]
    return answered


@pytest.mark.parametrize(("provider", "way"), covering(SYNC, ASYNC))
def test_what_can_pass_is_tried_again_by_one_layer(provider: str, way: str, serve: Serve) -> None:
    """The clients of SDKs retry too, outside a run."""
    arrivals: list[float] = []
    last = structured({"name": "Ada"}) if "object" in way else text("At last.")
    replies = in_order(error(429, retry_after=0.4), error(500), error(503), drop(), last)

    def script(asked: Asked) -> Reply:
        arrivals.append(time.monotonic())
        return replies(asked)

    server = serve(provider, script)
    assert answer(provider, way) in ("At last.", Person(name="Ada"), '{"name":"Ada"}')
    assert len(server.requests) == 5
    assert arrivals[1] - arrivals[0] >= 0.4


@pytest.mark.parametrize(("provider", "way"), covering(["sync", "async object", "async", "object"]))
def test_as_often_as_it_is_told_to(provider: str, way: str, serve: Serve) -> None:
    """It has not merely outlived the retries of an SDK."""
    server = serve(provider, lambda asked: error(503))
    with pytest.raises(Exception, match=r"overloaded|503"):
        answer(provider, way)
    assert len(server.requests) == FAST.attempts


@pytest.mark.parametrize(("provider", "way"), covering(SYNC, ASYNC))
def test_a_wrong_key_is_asked_once_and_said_as_crewai_says_it(
    provider: str, way: str, serve: Serve
) -> None:
    server = serve(provider, lambda asked: error(401))
    _, options, asked = WAYS[way]
    llm = PROVIDERS[provider].build(**options)
    with pytest.raises(Exception) as plain:  # noqa: PT011
        asyncio.run(llm.acall("Hello.", **asked)) if "async" in way else llm.call("Hello.", **asked)
    assert len(server.requests) == 1
    with pytest.raises(type(plain.value)) as durable:
        answer(provider, way)
    assert str(durable.value) == str(plain.value)
    assert len(server.requests) == 2


@tool
def look_up(name: str) -> str:
    """Look something up."""
    return name


# Answers that crewAI has turned into objects, by a client that it makes itself --------


def describe(server: ProviderServer) -> str:
    """A crew of one task, whose agent has a tool: then an answer is a text. The run's id."""
    llm = LLM(model="openai/gpt-4o-mini", api_key=KEY, base_url=f"{server.url}/v1")
    agent = Agent(role="Clerk", goal="Work", backstory="Diligent.", llm=llm, tools=[look_up])
    task = Task(description="Who?", expected_output="It.", agent=agent, output_json=Person)
    crew = Crew(agents=[agent], tasks=[task])
    run_id = unique("run")
    with SetWorkflowID(run_id):
        DBOSCrew(crew_name=unique("crew"), orig_crew=crew, llm_step_config=FAST).kickoff()
    return run_id


@pytest.fixture
def openai() -> Iterator[ProviderServer]:
    with ProviderServer(AzureWire(), lambda asked: text("It is Ada.")).running() as server:
        yield server


def test_an_object_is_asked_for_as_often_as_it_is_told_to(openai: ProviderServer) -> None:
    """crewAI gives up after three times, each of which is a request that is tried again."""
    openai.script = in_order(text("It is Ada."), *[error(503)] * 99)
    describe(openai)
    assert len(openai.requests) == 1 + 3 * FAST.attempts


def test_an_object_that_was_answered_is_not_asked_for_again(openai: ProviderServer) -> None:
    openai.script = in_order(text("It is Ada."), error(503), structured({"name": "Ada"}))
    run_id = describe(openai)
    assert len(openai.requests) == 3
    last = DBOS.list_workflow_steps(run_id)[-1]["function_id"]
    output = DBOS.fork_workflow(run_id, last + 1).get_result()
    assert output == DBOS.retrieve_workflow(run_id).get_result()
    assert "Ada" in str(output)
    assert len(openai.requests) == 3
