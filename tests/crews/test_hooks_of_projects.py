"""Hooks that are methods of a @CrewBase class are called in the runs of its crew, once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow, start
from crewai.hooks import (
    InterceptionPoint,
    after_tool_call,
    before_llm_call,
    get_hooks,
    on,
    unregister_hook,
)
from crewai.project import CrewBase, crew
from crewai.project import agent as an_agent
from crewai.project import task as a_task
from crewai.tools import tool

from crewai_dbos import DBOSAgent, DBOSCrew, DBOSFlow, StepConfig
from crewai_dbos.doctor._subject import read
from crewai_dbos.testing import Request
from crews.scenarios import agent, search, searching, task, turns
from support.names import unique
from support.serving import Serve

NOTE = "(noted by a hook)"


@CrewBase
class Hooked:
    """A hook notes each request, another one shouts, a third counts steps."""

    agents_config: Any = {}  # noqa: RUF012
    tasks_config: Any = {}  # noqa: RUF012

    @before_llm_call
    def note(self, context: Any) -> None:
        context.messages.append({"role": "user", "content": f"{NOTE} {self.steps}"})

    @after_tool_call(tools=["search"])
    def shout(self, context: Any) -> str:
        return f"{context.tool_result}!"

    @on(InterceptionPoint.PRE_STEP)
    def count(self, context: Any) -> None:
        self.steps += 1

    def __init__(self) -> None:
        self.steps = 0

    @an_agent
    def clerk(self) -> Agent:
        return agent("Clerk", tools=[search])

    @a_task
    def first(self) -> Task:
        return task("Do it", self.clerk())

    @crew
    def crew(self) -> Crew:
        return Crew(agents=self.agents, tasks=self.tasks)  # type: ignore[attr-defined]


def notes(request: Request) -> list[str]:
    found = (str(message.get("content")) for message in request.messages)
    return [text for text in found if text.startswith(NOTE)]


def registered() -> dict[InterceptionPoint, list[Any]]:
    return {point: get_hooks(point) for point in InterceptionPoint}


def forget_all_but(kept: dict[InterceptionPoint, list[Any]]) -> None:
    for point, hooks in registered().items():
        for hook in hooks:
            if hook not in kept[point]:
                unregister_hook(point, hook)


script = turns(searching("fish"))


@pytest.mark.parametrize("source", ["class", "callable"])
def test_they_are_called_once_in_each_run(source: str, serve: Serve) -> None:
    before = registered()
    source_of_it: Any = Hooked if source == "class" else lambda: Hooked().crew()
    durable = DBOSCrew(crew_name=unique("hooked"), orig_crew=source_of_it)
    for _ in range(3):
        server = serve(script)
        durable.kickoff()
        assert [notes(request) for request in server.requests] == [
            [f"{NOTE} 1"],
            [f"{NOTE} 1", f"{NOTE} 1"],
        ]
        assert server.requests[-1].tool_results[0][1] == "found fish!"
    assert registered() == before


class Office(Flow):
    """A flow that has such a crew from its beginning."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.team = Hooked().crew()

    @start()
    def work(self) -> str:
        return str(self.team.kickoff().raw)


def test_so_are_those_of_a_crew_that_a_flow_is_built_with(serve: Serve) -> None:
    before = registered()
    durable = DBOSFlow(flow_name=unique("hooked"), orig_flow=Office)
    for _ in range(2):
        server = serve(script)
        durable.kickoff()
        assert [len(notes(request)) for request in server.requests] == [1, 2]
    assert registered() == before


def test_so_are_those_of_an_agent_that_is_built_anew(serve: Serve) -> None:
    before = registered()
    durable = DBOSAgent(
        agent_name=unique("hooked"),
        orig_agent=lambda: Hooked().clerk(),
        tool_step_config=StepConfig(),
    )
    for _ in range(2):
        server = serve(script)
        durable.kickoff("Do it")
        assert [len(notes(request)) for request in server.requests] == [1, 2]
    assert registered() == before


def test_runs_at_once_have_each_their_own(serve: Serve) -> None:
    server = serve(script)
    durable = DBOSCrew(crew_name=unique("hooked"), orig_crew=Hooked)

    async def kick_off() -> None:
        await asyncio.gather(*(durable.akickoff() for _ in range(3)), durable.kickoff_async())

    asyncio.run(kick_off())
    assert {text for request in server.requests for text in notes(request)} == {f"{NOTE} 1"}
    assert sorted(len(notes(request)) for request in server.requests) == [1] * 4 + [2] * 4


def test_another_crew_beside_it_has_none(serve: Serve) -> None:
    server = serve()
    DBOSCrew(crew_name=unique("hooked"), orig_crew=Hooked)
    clerk = agent("Clerk")
    other = DBOSCrew(
        crew_name=unique("other"), orig_crew=Crew(agents=[clerk], tasks=[task("Rest", clerk)])
    )
    other.kickoff()
    assert [notes(request) for request in server.requests] == [[]]


def test_they_hold_for_a_crew_that_one_of_its_tools_kicks_off(serve: Serve) -> None:
    clerk = agent("Helper")
    inner = DBOSCrew(
        crew_name=unique("inner"), orig_crew=Crew(agents=[clerk], tasks=[task("Help", clerk)])
    )

    @tool("search")
    def ask_them(query: str) -> str:
        """Ask others."""
        return str(inner.kickoff().raw)

    def build() -> Crew:
        made: Crew = Hooked().crew()
        made.agents[0].tools = made.tasks[0].tools = [ask_them]
        return made

    server = serve(script)
    DBOSCrew(crew_name=unique("hooked"), orig_crew=build).kickoff()
    assert [len(notes(request)) for request in server.requests] == [1, 1, 2]


def test_the_ordinary_crew_has_them_as_in_crewai(serve: Serve) -> None:
    before = registered()
    server = serve()
    try:
        durable = DBOSCrew(crew_name=unique("hooked"), orig_crew=Hooked().crew)
        durable.kickoff()
        durable.orig_crew.kickoff()
    finally:
        forget_all_but(before)
    assert [len(notes(request)) for request in server.requests] == [1, 1]


def test_those_of_a_crew_that_was_built_before_stay_the_processs(serve: Serve) -> None:
    before = registered()
    server = serve(script)
    try:
        durable = DBOSCrew(crew_name=unique("hooked"), orig_crew=Hooked().crew())
        durable.kickoff()
        assert [len(notes(request)) for request in server.requests] == [1, 2]
        assert registered() != before
    finally:
        forget_all_but(before)


def test_the_doctor_lists_them_as_the_crews() -> None:
    durable = DBOSCrew(crew_name=unique("hooked"), orig_crew=Hooked)
    hooks = {(item.name, item.owner) for item in read(durable, None).items if item.kind == "hook"}
    assert {
        ("Hooked.note (pre_model_call)", "crew"),
        ("Hooked.count (pre_step)", "crew"),
    } <= hooks
