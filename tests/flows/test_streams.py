"""Every way in which crewAI streams a crew or a flow gives with us what it gives without."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from crewai import LLM, Crew
from crewai.flow.flow import Flow, start
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSCrew, DBOSFlow
from crews.scenarios import agent, model, task
from flows.conversation import Desk, history, replies
from support.names import unique
from support.serving import Serve

CHANNELS = ("llm", "messages", "tools")


def crew() -> Crew:
    clerk = agent("Clerk")
    return Crew(agents=[clerk], tasks=[task("Do {topic}", clerk)], stream=True)


class Telling(Flow[dict[str, Any]]):
    @start()
    def tell(self) -> str:
        llm = LLM(model="openai/gpt-4o-mini", stream=True)
        return str(llm.call(f"Tell of {self.state['topic']} at some length, please."))


def flow() -> Any:
    told = Telling()
    told.stream = True
    return told


def seen(chunks: list[Any], stream: Any) -> dict[str, Any]:
    """What a user sees of a stream that has been read."""
    result = stream.result
    return {
        "text": "".join(chunk.content for chunk in chunks),
        "chunks": len([chunk for chunk in chunks if chunk.content]) > 1,
        "kinds": Counter(c.type for c in chunks if getattr(c, "channel", None) in CHANNELS),
        "result": getattr(result, "raw", result),
    }


def sync(begin: Callable[[], Any]) -> dict[str, Any]:
    stream = begin()
    return seen(list(stream), stream)


def in_a_loop(begin: Callable[[], Any]) -> dict[str, Any]:
    async def read() -> dict[str, Any]:
        stream = begin()
        if asyncio.iscoroutine(stream):
            stream = await stream
        return seen([chunk async for chunk in stream], stream)

    return asyncio.run(read())


TOPIC = {"topic": "otters"}
CREW_WAYS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "kickoff": lambda crew: sync(lambda: crew.kickoff(TOPIC)),
    "kickoff_async": lambda crew: in_a_loop(lambda: crew.kickoff_async(TOPIC)),
    "akickoff": lambda crew: in_a_loop(lambda: crew.akickoff(TOPIC)),
}
FLOW_WAYS: dict[str, Callable[[Any], dict[str, Any]]] = {
    **CREW_WAYS,
    "stream_events": lambda flow: sync(lambda: flow.stream_events(TOPIC)),
    "astream": lambda flow: in_a_loop(lambda: flow.astream(TOPIC)),
}


def check(way: Callable[[Any], dict[str, Any]], alone: Any, ours: Any, run_id: str) -> None:
    """`ours` streams as `alone`, and what it streams is the run that was asked for."""
    with SetWorkflowID(run_id):
        found = way(ours)
    assert found == way(alone)
    assert found["text"]
    assert found["chunks"]
    assert ours.retrieve(run_id).get_result() is not None
    assert ours.usage_metrics == alone.usage_metrics
    assert ours.stream


@pytest.mark.parametrize("way", CREW_WAYS)
def test_a_crew(way: str, serve: Serve) -> None:
    server = serve()
    ours = DBOSCrew(crew_name=unique("streamed"), orig_crew=crew)
    check(CREW_WAYS[way], crew(), ours, ours.crew_name)
    assert [request.stream for request in server.requests] == [True, True]


@pytest.mark.parametrize("way", FLOW_WAYS)
def test_a_flow(way: str, serve: Serve) -> None:
    server = serve()
    ours = DBOSFlow(flow_name=unique("streamed"), orig_flow=flow)
    check(FLOW_WAYS[way], flow(), ours, ours.flow_name)
    assert [request.stream for request in server.requests] == [True, True]


@pytest.mark.parametrize("way", CREW_WAYS)
def test_a_crew_in_a_workflow(way: str, serve: Serve) -> None:
    server = serve()
    ours = DBOSCrew(crew_name=unique("streamed"), orig_crew=crew)
    begin = getattr(ours, way)

    @DBOS.workflow(name=unique("reads"))
    async def areads() -> dict[str, Any]:
        stream = await begin(TOPIC)
        return seen([chunk async for chunk in stream], stream)

    @DBOS.workflow(name=unique("reads"))
    def reads() -> dict[str, Any]:
        return sync(lambda: begin(TOPIC))

    run_id = unique("read")
    with SetWorkflowID(run_id):
        found = reads() if way == "kickoff" else asyncio.run(areads())
    assert found == CREW_WAYS[way](crew())
    names = [step["function_name"] for step in DBOS.list_workflow_steps(run_id)]
    assert [name for name in names if name.endswith("/llm#1")]
    assert len(server.requests) == 2


@pytest.mark.parametrize("way", CREW_WAYS)
def test_a_crew_that_is_an_ordinary_one(way: str, serve: Serve) -> None:
    """In a step, as in a process that has not launched DBOS."""
    serve()
    ours = DBOSCrew(crew_name=unique("streamed"), orig_crew=crew)

    @DBOS.step(name=unique("step"))
    def reads() -> dict[str, Any]:
        return CREW_WAYS[way](ours)

    @DBOS.workflow(name=unique("workflow"))
    def work() -> dict[str, Any]:
        return reads()

    assert work() == CREW_WAYS[way](crew())


def test_a_stream_of_a_model_in_a_method(serve: Serve) -> None:
    """It is asked to stream by a setting of that call."""

    class Reading(Flow[dict[str, Any]]):
        @start()
        def read(self) -> list[str]:
            stream = model().stream_events("Tell of otters at some length, please.")
            texts = [frame.content for frame in stream if frame.content]
            return ["".join(texts), stream.result, str(len(texts) > 1)]

    server = serve()
    expected = Reading().kickoff()
    ours = DBOSFlow(flow_name=unique("reading"), orig_flow=Reading)
    assert ours.kickoff() == expected
    assert expected[2] == "True"
    assert [request.stream for request in server.requests] == [True, True]


# Conversations -----------------------------------------------------------------------

SAID = ["Hello", "I want two chairs", "Thanks"]


def talk(desk: Any) -> list[dict[str, Any]]:
    return [sync(lambda said=said: desk.stream_turn(said, session_id="s")) for said in SAID]


def test_turns(serve: Serve) -> None:
    server = serve(replies)
    alone = Desk()
    expected = talk(alone)
    asked = [request.fingerprint for request in server.requests]
    ours = DBOSFlow(flow_name=unique("desk"), orig_flow=Desk)
    assert talk(ours) == expected
    assert [request.fingerprint for request in server.requests[len(asked) :]] == asked
    assert history(ours) == history(alone)
    assert any(turn["chunks"] for turn in expected)
    last = ours.retrieve(f"{ours.flow_name}/s/3")
    assert last.get_result() == expected[2]["result"]
    steps = DBOS.list_workflow_steps(last.workflow_id)
    before = len(server.requests)
    for step in steps:
        fork = DBOS.fork_workflow(last.workflow_id, step["function_id"] + 1).get_workflow_id()
        assert ours.retrieve(fork).get_result() == expected[2]["result"]
    assert {request.fingerprint for request in server.requests[before:]} <= set(asked)
