"""Ids in crewAI's events are those of the user's objects, also when a run goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.events import (
    CrewKickoffStartedEvent,
    LLMCallStartedEvent,
    TaskCompletedEvent,
    TaskStartedEvent,
    crewai_event_bus,
)
from crewai.utilities.crew.crew_context import get_crew_context
from crewai_files import TextFile
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSAgent, DBOSCrew
from crewai_dbos.testing import Reply, Request, ToolCall, text, tool_calls
from support.launching import launched_in
from support.names import unique
from support.serving import Serve, serving


@pytest.fixture(scope="module", autouse=True)
def dbos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with launched_in(tmp_path_factory.mktemp("ids")):
        yield


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    yield from serving(monkeypatch, lambda _: text("They swim."))


Seen = list[tuple[str, str | None]]


@pytest.fixture
def seen() -> Iterator[Seen]:
    """The ids that handlers have seen, each with where."""
    found: Seen = []
    with crewai_event_bus.scoped_handlers():

        @crewai_event_bus.on(CrewKickoffStartedEvent)
        def crew_began(source: Any, event: Any) -> None:
            found.append(("crew", str(source.id)))

        @crewai_event_bus.on(TaskStartedEvent)
        def task_began(source: Any, event: Any) -> None:
            found.append(("task began", event.task_id))
            found.append(("source", str(source.id)))

        @crewai_event_bus.on(TaskCompletedEvent)
        def task_ended(source: Any, event: Any) -> None:
            found.append(("task ended", str(event.task.id)))

        @crewai_event_bus.on(LLMCallStartedEvent)
        def asked(source: Any, event: Any) -> None:
            found.append(("llm", event.task_id))
            context = get_crew_context()
            found.append(("context", context.id if context else None))

        yield found


def build() -> Crew:
    clerk = Agent(role="Clerk", goal="Find", backstory="Old.", llm="gpt-4o-mini")
    tasks = [
        Task(description="Find {what}.", expected_output="Facts.", agent=clerk),
        Task(description="Write {what}.", expected_output="A text.", agent=clerk),
    ]
    return Crew(agents=[clerk], tasks=tasks)


def expected(crew: Crew) -> set[tuple[str, str]]:
    tasks = {
        (where, str(task.id))
        for task in crew.tasks
        for where in ("task began", "source", "task ended", "llm")
    }
    return {("crew", str(crew.id)), ("context", str(crew.id)), *tasks}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_of_a_crew(serve: Serve, seen: Seen, asynchronous: bool) -> None:
    serve()
    own = build()
    durable = DBOSCrew(crew_name=unique("crew"), orig_crew=own)
    if asynchronous:
        asyncio.run(durable.akickoff({"what": "otters"}))
    else:
        durable.kickoff({"what": "otters"})
    assert set(seen) == expected(own)


@pytest.mark.parametrize("anew", [False, True])
def test_the_same_when_the_run_goes_on(serve: Serve, seen: Seen, anew: bool) -> None:
    """Where the user's crew is built anew, as in another process, too."""
    serve()
    own = build()
    durable = DBOSCrew(crew_name=unique("crew"), orig_crew=build if anew else own)
    run_id = unique("run")
    with SetWorkflowID(run_id):
        durable.kickoff({"what": "otters"})
    first = set(seen)
    assert len({each for each in first if each[0] == "task began"}) == 2
    seen.clear()
    steps = DBOS.list_workflow_steps(run_id)
    last = [step for step in steps if "/llm#" in step["function_name"]][-1]
    DBOS.fork_workflow(run_id, last["function_id"]).get_result()
    again = set(seen)
    made = {("llm", task_id) for where, task_id in again if where == "llm"}
    assert len(made) == 1  # the other is answered from the record
    assert again == {each for each in first if each[0] != "llm"} | made
    assert made <= first


def test_of_a_task_that_an_agent_is_given(serve: Serve, seen: Seen) -> None:
    serve()
    clerk = Agent(role="Clerk", goal="Find", backstory="Old.", llm="gpt-4o-mini")
    durable = DBOSAgent(agent_name=unique("clerk"), orig_agent=clerk)
    task = Task(description="Find otters.", expected_output="Facts.")
    run_id = unique("run")
    with SetWorkflowID(run_id):
        durable.execute_task(task)
    assert {each for each in seen if each[0] == "llm"} == {("llm", str(task.id))}
    seen.clear()
    step = DBOS.list_workflow_steps(run_id)[-1]
    DBOS.rewind_workflow(run_id, start_step=step["function_id"])
    DBOS.retrieve_workflow(run_id).get_result()
    assert {each for each in seen if each[0] == "llm"} == {("llm", str(task.id))}


def test_a_handler_can_tell_runs_apart(serve: Serve) -> None:
    serve()
    durable = DBOSCrew(crew_name=unique("crew"), orig_crew=build())
    found: dict[str, set[str | None]] = {}
    with crewai_event_bus.scoped_handlers():

        @crewai_event_bus.on(TaskStartedEvent)
        def began(source: Any, event: Any) -> None:
            found.setdefault(event.task_id, set()).add(DBOS.workflow_id)

        runs = [durable.start({"what": what}) for what in ("otters", "cats")]
        for run in runs:
            run.get_result()
    assert list(found.values()) == [{run.workflow_id for run in runs}] * 2


def reading(request: Request) -> Reply:
    if not request.tool_results:
        return tool_calls(ToolCall("read_file", {"file_name": "table"}))
    return text(request.tool_results[0][1])


@pytest.mark.parametrize("joined", [False, True])
def test_runs_of_one_crew_keep_their_files_apart(
    serve: Serve, tmp_path: Path, joined: bool
) -> None:
    serve(reading)
    clerk = Agent(role="Clerk", goal="Read", backstory="Old.", llm="gpt-4o-mini")
    read = Task(description="Read {what}.", expected_output="Facts.", agent=clerk)
    durable = DBOSCrew(crew_name=unique("crew"), orig_crew=Crew(agents=[clerk], tasks=[read]))

    def given(number: int) -> dict[str, Any]:
        path = tmp_path / f"{number}.txt"
        path.write_text(f"number {number}")
        files = {"table": TextFile(source=path)}
        return {"inputs": {"what": f"the {number}"}, "input_files": files}

    @DBOS.workflow(name=unique("all"))
    async def every() -> list[str]:
        outputs = await asyncio.gather(*(durable.akickoff(**given(n)) for n in range(6)))
        return [output.raw for output in outputs]

    if joined:
        found = asyncio.run(every())
    else:
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda n: str(durable.kickoff(**given(n)).raw), range(6)))
    assert found == [f"number {number}" for number in range(6)]
