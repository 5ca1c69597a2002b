"""Hooks that are methods of a @CrewBase class are called in the runs of its crew, once."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
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
from crewai.hooks.dispatch import register
from crewai.project import CrewBase, crew
from crewai.project import agent as an_agent
from crewai.project import task as a_task
from crewai.tools import tool

from crewai_dbos import DBOSAgent, DBOSCrew, DBOSFlow, StepConfig
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


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """What a test registers for the process is nobody else's."""
    before = registered()
    yield
    forget_all_but(before)


script = turns(searching("fish"))


@pytest.mark.parametrize("source", ["class", "callable"])
def test_they_are_called_once_in_each_run(source: str, serve: Serve) -> None:
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


class Office(Flow):
    """A flow that has such a crew from its beginning."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.team = Hooked().crew()

    @start()
    def work(self) -> str:
        return str(self.team.kickoff().raw)


def test_so_are_those_of_a_crew_that_a_flow_is_built_with(serve: Serve) -> None:
    durable = DBOSFlow(flow_name=unique("hooked"), orig_flow=Office)
    for _ in range(2):
        server = serve(script)
        durable.kickoff()
        assert [len(notes(request)) for request in server.requests] == [1, 2]


def test_so_are_those_of_an_agent_that_is_built_anew(serve: Serve) -> None:
    durable = DBOSAgent(
        agent_name=unique("hooked"),
        orig_agent=lambda: Hooked().clerk(),
        tool_step_config=StepConfig(),
    )
    for _ in range(2):
        server = serve(script)
        durable.kickoff("Do it")
        assert [len(notes(request)) for request in server.requests] == [1, 2]


def test_runs_at_once_have_each_their_own(serve: Serve) -> None:
    server = serve(script)
    durable = DBOSCrew(crew_name=unique("hooked"), orig_crew=Hooked)

    async def kick_off() -> None:
        await asyncio.gather(*(durable.akickoff() for _ in range(3)), durable.kickoff_async())

    asyncio.run(kick_off())
    assert {text for request in server.requests for text in notes(request)} == {f"{NOTE} 1"}
    assert sorted(len(notes(request)) for request in server.requests) == [1] * 4 + [2] * 4


def test_another_crew_beside_it_has_them_once_as_in_crewai(serve: Serve) -> None:
    hooked = DBOSCrew(crew_name=unique("hooked"), orig_crew=Hooked)
    serve(script)
    for _ in range(2):
        hooked.kickoff()
    server = serve()
    clerk = agent("Clerk")
    other = DBOSCrew(
        crew_name=unique("other"), orig_crew=Crew(agents=[clerk], tasks=[task("Rest", clerk)])
    )
    other.kickoff()
    assert [len(notes(request)) for request in server.requests] == [1]


@pytest.mark.parametrize("where", ["here", "in a pool"])
def test_they_hold_for_a_crew_that_one_of_its_tools_kicks_off(where: str, serve: Serve) -> None:
    clerk = agent("Helper")
    inner = DBOSCrew(
        crew_name=unique("inner"), orig_crew=Crew(agents=[clerk], tasks=[task("Help", clerk)])
    )

    @tool("search")
    def ask_them(query: str) -> str:
        """Ask others."""
        if where == "here":
            return str(inner.kickoff().raw)
        with ThreadPoolExecutor(1) as pool:
            return str(pool.submit(inner.kickoff).result().raw)

    def build() -> Crew:
        made: Crew = Hooked().crew()
        made.agents[0].tools = made.tasks[0].tools = [ask_them]
        return made

    server = serve(script)
    DBOSCrew(crew_name=unique("hooked"), orig_crew=build).kickoff()
    assert [len(notes(request)) for request in server.requests] == [1, 1, 2]


def test_the_ordinary_crew_has_them_as_in_crewai(serve: Serve) -> None:
    server = serve()
    durable = DBOSCrew(crew_name=unique("hooked"), orig_crew=Hooked().crew)
    durable.kickoff()
    durable.orig_crew.kickoff()
    assert [len(notes(request)) for request in server.requests] == [1, 1]


def test_so_has_a_crew_that_was_built_before(serve: Serve) -> None:
    server = serve(script)
    durable = DBOSCrew(crew_name=unique("hooked"), orig_crew=Hooked().crew())
    durable.kickoff()
    assert [len(notes(request)) for request in server.requests] == [1, 2]


def test_a_builder_may_keep_its_crew(serve: Serve) -> None:
    server = serve(script)
    build = functools.cache(lambda: Hooked().crew())
    durable = DBOSCrew(crew_name=unique("hooked"), orig_crew=build)
    for kickoff in (durable.kickoff, durable.kickoff, build().kickoff, durable.kickoff):
        before = len(server.requests)
        kickoff()
        assert [len(notes(request)) for request in server.requests[before:]] == [1, 2]


def test_a_flow_may_be_built_with_a_crew_that_is_kept(serve: Serve) -> None:
    server = serve(script)
    build = functools.cache(lambda: Hooked().crew())

    class Kept(Flow):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.team = build()

        @start()
        def work(self) -> str:
            return str(self.team.kickoff().raw)

    durable = DBOSFlow(flow_name=unique("hooked"), orig_flow=Kept)
    for kickoff in (durable.kickoff, durable.kickoff, build().kickoff):
        before = len(server.requests)
        kickoff()
        assert [len(notes(request)) for request in server.requests[before:]] == [1, 2]


def test_a_crew_that_a_run_is_the_first_to_build_may_be_kept(serve: Serve) -> None:
    server = serve(script)
    kept: list[Crew] = []

    def build() -> Crew:
        if not built:
            clerk = agent("Clerk", tools=[search])
            built.append(Crew(agents=[clerk], tasks=[task("Do it", clerk)]))
            return built[0]
        if not kept:
            kept.append(Hooked().crew())
        return kept[0]

    built: list[Crew] = []
    durable = DBOSCrew(crew_name=unique("hooked"), orig_crew=build)
    for _ in range(3):
        before = len(server.requests)
        durable.kickoff()
        assert [len(notes(request)) for request in server.requests[before:]] == [1, 2]


MODULE = """
from crewai.hooks import before_llm_call

@before_llm_call
def note(context):
    context.messages.append({"role": "user", "content": "(noted by a hook)"})
"""


def test_hooks_that_a_builder_registers_once_stay_registered(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = unique("guards").replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    flag: list[bool] = []

    def hook(context: Any) -> None:
        context.messages.append({"role": "user", "content": NOTE})

    def build() -> Crew:
        __import__(name)
        if not flag:
            flag.append(True)
            register(hook=hook, point=InterceptionPoint.PRE_MODEL_CALL)
        clerk = agent("Clerk")
        return Crew(agents=[clerk], tasks=[task("Do it", clerk)])

    durable = DBOSCrew(crew_name=unique("hooked"), orig_crew=build)
    for kickoff in (durable.kickoff, durable.kickoff, build().kickoff):
        server = serve()
        kickoff()
        assert [len(notes(request)) for request in server.requests] == [2]
    del sys.modules[name]


def test_two_classes_have_each_their_own(serve: Serve) -> None:
    @CrewBase
    class Other:
        agents_config: Any = {}  # noqa: RUF012
        tasks_config: Any = {}  # noqa: RUF012

        @before_llm_call
        def note_too(self, context: Any) -> None:
            context.messages.append({"role": "user", "content": f"{NOTE} other"})

        @crew
        def crew(self) -> Crew:
            clerk = agent("Clerk", tools=[search])
            return Crew(agents=[clerk], tasks=[task("Do it", clerk)])

    first = DBOSCrew(crew_name=unique("hooked"), orig_crew=Hooked)
    second = DBOSCrew(crew_name=unique("hooked"), orig_crew=Other)
    for durable in (first, second, first):
        server = serve(script)
        durable.kickoff()
        assert [len(notes(request)) for request in server.requests] == [2, 4]


def test_two_crews_of_one_class_have_each_their_own(serve: Serve) -> None:
    crews = [DBOSCrew(crew_name=unique("hooked"), orig_crew=Hooked) for _ in range(2)]
    for durable in (*crews, *crews):
        server = serve(script)
        durable.kickoff()
        assert [notes(request) for request in server.requests] == [[f"{NOTE} 1"], [f"{NOTE} 1"] * 2]


def test_hooks_that_were_cleared_come_with_the_next_run(serve: Serve) -> None:
    durable = DBOSCrew(crew_name=unique("hooked"), orig_crew=Hooked)
    forget_all_but({point: [] for point in InterceptionPoint})
    for _ in range(2):
        server = serve(script)
        durable.kickoff()
        assert [len(notes(request)) for request in server.requests] == [1, 2]


def test_a_run_that_is_built_with_two_objects_has_the_hooks_of_both(serve: Serve) -> None:
    def build() -> Crew:
        first, second = Hooked(), Hooked()
        first.steps = 10
        return second.crew()  # type: ignore[no-any-return]

    durable = DBOSCrew(crew_name=unique("hooked"), orig_crew=build)
    for _ in range(2):
        server = serve(script)
        durable.kickoff()
        assert notes(server.requests[0]) == [f"{NOTE} 11", f"{NOTE} 1"]
