"""A reader of events, and a server that is killed in the middle of them."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from crewai import Agent, Crew, Task
from crewai.tools import tool

from crewai_dbos import DBOSCrew
from crewai_dbos.control import Control, Event
from crewai_dbos.testing import Request, ToolCall, text, tool_calls
from front.conftest import BEARER, TOKEN
from people.conftest import until
from support.names import unique
from support.python import Program
from support.serving import Serve

pytestmark = pytest.mark.crash


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(url: str, port: int, folder: Path) -> Iterator[Callable[[], None]]:
    """A process that serves `url`. Yields what kills it; it is dead after the block."""
    code = f"from front.serving import serve; serve({url!r}, {port}, {TOKEN!r})"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    process = Program("-c", code, folder=folder, env={**os.environ, "PYTHONPATH": path})

    def answers() -> bool:
        process.check_is_there()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(answers)
        yield process.kill
    finally:
        process.end()


def test_a_reader_goes_on_at_the_next_server(
    url: str, control: Control, model: Serve, tmp_path: Path
) -> None:
    """It sends the number that it has, and misses nothing and gets nothing twice."""
    reached, goes_on = threading.Event(), threading.Event()

    @tool("look")
    def look(what: str) -> str:
        """Look."""
        reached.set()
        assert goes_on.wait(60)
        return "seen"

    def script(request: Request) -> object:
        if request.tool_results:
            return text("Done.")
        return tool_calls(ToolCall("look", {"what": "otters"}))

    model(script)
    clerk = Agent(role="Clerk", goal="Look", backstory="Old.", llm="gpt-4o-mini", tools=[look])
    task = Task(description="Look.", expected_output="A line.", agent=clerk)
    durable = DBOSCrew(
        crew_name=unique("crew"), orig_crew=Crew(agents=[clerk], tasks=[task]), events=True
    )
    run_id = durable.start().workflow_id
    assert reached.wait(60)
    port = free_port()
    address = f"http://127.0.0.1:{port}/runs/{run_id}/events"
    seen: list[int] = []

    def read(until_number: int | None, killed: Callable[[], None] | None) -> bool:
        """Read on from the last number. Returns whether the stream has come to its end."""
        headers = {**BEARER, "Last-Event-ID": str(seen[-1] if seen else "")}
        with httpx.stream("GET", address, headers=headers, timeout=60) as response:
            assert response.status_code == 200
            for line in response.iter_lines():
                if line == "event: end":
                    return True
                if line.startswith("id: "):
                    seen.append(int(line.removeprefix("id: ")))
                    if killed is not None and seen[-1] == until_number:
                        killed()
        return False

    def begun_events() -> list[Event]:
        found = list(control.events(run_id))
        return found if found and found[-1].type == "tool.started" else []

    begun = [event.seq for event in until(begun_events)]
    with server(url, port, tmp_path) as kill, pytest.raises(httpx.TransportError):
        read(begun[-1], kill)
    assert seen == begun
    goes_on.set()
    durable.retrieve(run_id).get_result()
    with server(url, port, tmp_path):
        assert read(None, None)
    assert seen == [event.seq for event in control.events(run_id)]
    assert len(seen) > len(begun)
