"""Files that a crew, an agent or a flow is given: stored as where they come from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from crewai import Crew
from crewai.flow.flow import Flow, FlowState, listen, start
from crewai_files import File, ImageFile, TextFile
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSAgent, DBOSFlow, UnstorableInputError
from crewai_dbos.testing import Reply, Request, ToolCall, text, tool_calls
from crews.scenarios import FILES, agent, task
from crews.test_runs import durable
from support.entries import how_many
from support.names import unique
from support.replays import starts_of
from support.serving import Serve

PICTURE = FILES / "otter.png"


def two_tasks() -> Crew:
    clerk = agent("Clerk")
    return Crew(agents=[clerk], tasks=[task("Look at {topic}", clerk), task("Again", clerk)])


def looking(request: Request) -> Reply:
    """Reads the table that is listed, and says what it was given."""
    if "read_file" in request.offered_tools and not request.tool_results:
        return tool_calls(ToolCall("read_file", {"file_name": "table"}))
    [(_, read)] = request.tool_results or [("", "")]
    return text(f"{len(pictures(request))} picture, {read!r}")


def pictures(request: Request) -> list[Any]:
    parts = [
        part for m in request.messages if isinstance(m["content"], list) for part in m["content"]
    ]
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


def stored_input(run_id: str) -> str:
    return str(DBOS.get_workflow_status(run_id).input)  # type: ignore[union-attr]


@pytest.mark.some_entries
@pytest.mark.parametrize("place", ["input_files", "inputs"])
def test_a_run_with_files_is_found_again(place: str, serve: Serve) -> None:
    server = serve(looking)
    crew = durable(two_tasks)
    files = {"picture": ImageFile(source=PICTURE), "table": TextFile(source=b"a,b\n")}
    given: dict[str, Any] = {"inputs": {"topic": "otters"}}
    given = {**given, place: {**given.get(place, {}), **files}}
    run_id = unique("files")
    with SetWorkflowID(run_id):
        output = crew.kickoff(**given)
    assert [done.raw for done in output.tasks_output] == ["1 picture, 'a,b\\n'"] * 2
    [sent] = pictures(server.requests[-1])
    assert sent.startswith("data:image/png;base64,")
    for begin in starts_of(DBOS.list_workflow_steps(run_id)):
        fork = DBOS.fork_workflow(run_id, begin).get_workflow_id()
        assert crew.retrieve(fork).get_result() == output
    assert str(PICTURE) in stored_input(run_id)
    # The files have been read by now; it is the same run all the same.
    asked = len(server.requests)
    with SetWorkflowID(run_id):
        assert crew.kickoff(**given) == output
    assert len(server.requests) == asked


def test_a_stream_is_stored_as_what_is_in_it(serve: Serve) -> None:
    serve(looking)
    crew = durable(two_tasks)
    run = crew.start({"topic": "otters"}, {"table": File(source=BytesIO(b"from a stream"))})
    assert run.get_result().raw == "0 picture, 'from a stream'"


def test_an_async_stream_has_to_be_read_before(serve: Serve) -> None:
    class Source:
        async def read(self, size: int = -1) -> bytes:
            return b"never"

    from crewai_files.core.sources import AsyncFileStream

    serve(looking)
    stream = AsyncFileStream(stream=Source())
    with pytest.raises(UnstorableInputError, match=r"await file\.aread\(\)"):
        durable(two_tasks).kickoff({"topic": "otters"}, {"table": stream})


@pytest.mark.some_entries
def test_runs_at_once_do_not_see_the_files_of_each_other(serve: Serve, tmp_path: Path) -> None:
    serve(looking)
    crew = durable(two_tasks)

    def kick_off(number: int) -> str:
        path = tmp_path / f"{number}.txt"
        path.write_text(f"number {number}")
        raw: str = crew.kickoff({"topic": "it"}, {"table": TextFile(source=path)}).raw
        return raw

    number = how_many(5, 16)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(kick_off, range(number)))
    assert answers == [f"0 picture, 'number {each}'" for each in range(number)]


def test_an_agent_with_a_picture(serve: Serve) -> None:
    server = serve(looking)
    clerk = DBOSAgent(agent_name=unique("agent"), orig_agent=agent("Clerk"))
    run_id = unique("agent-files")
    with SetWorkflowID(run_id):
        output = clerk.kickoff("Look.", input_files={"picture": ImageFile(source=PICTURE)})
    assert output.raw == "1 picture, ''"
    fork = DBOS.fork_workflow(run_id, 2).get_workflow_id()
    assert clerk.retrieve(fork).get_result() == output
    assert len(server.requests) == 1


class Looks(Flow[FlowState]):
    @start()
    def look(self) -> str:
        return str(two_tasks().kickoff({"topic": "otters"}).raw)

    @listen(look)
    def again(self, seen: str) -> list[str]:
        return [seen, str(two_tasks().kickoff({"topic": "badgers"}).raw)]


def test_a_flow_hands_its_files_to_its_crews(serve: Serve) -> None:
    server = serve(looking)
    flow = DBOSFlow(flow_name=unique("flow"), orig_flow=Looks)
    files = {"picture": ImageFile(source=PICTURE), "table": TextFile(source=b"a,b")}
    run_id = unique("flow-files")
    with SetWorkflowID(run_id):
        seen = flow.kickoff(input_files=files)
    assert seen == ["1 picture, 'a,b'"] * 2
    asked = len(server.requests)
    steps = DBOS.list_workflow_steps(run_id)
    fork = DBOS.fork_workflow(run_id, steps[-1]["function_id"] + 1).get_workflow_id()
    assert flow.retrieve(fork).get_result() == seen
    assert len(server.requests) == asked
    half = DBOS.fork_workflow(run_id, steps[len(steps) // 2]["function_id"] + 1).get_workflow_id()
    assert flow.retrieve(half).get_result() == seen
