"""Runs that are cancelled: who waits hears of it at once, and no call begins any more."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from crewai.flow.flow import Flow, listen, start
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID, SetWorkflowTimeout
from typer.testing import CliRunner, Result

from crewai_dbos import DBOSAgent, DBOSFlow, StepConfig, step
from crewai_dbos._journal import notes
from crewai_dbos.cli import app
from crewai_dbos.control import Control
from crewai_dbos.errors import DeadlinePassedError, RunCancelledError
from crewai_dbos.testing import Reply, Request, ToolCall, error, hang, text, tool_calls
from people.conftest import Called, status, until
from support.controlling import crew_of, ordinary
from support.databases import some_here
from support.names import unique
from support.python import python
from support.serving import Serve

AT_ONCE = 5.0
"""Seconds within which a caller hears of it, on a busy machine; what is held is never let go."""


class Two(Flow[dict[str, Any]]):
    @start()
    def one(self) -> str:
        return str(ordinary().kickoff({"topic": "one"}).raw)

    @start()
    def two(self) -> str:
        return str(ordinary().kickoff({"topic": "two"}).raw)


def crew(run_id: str) -> Any:
    with SetWorkflowID(run_id):
        return crew_of().kickoff({"topic": "otters"})


def crew_async(run_id: str) -> Any:
    async def main() -> Any:
        with SetWorkflowID(run_id):
            return await crew_of().akickoff({"topic": "otters"})

    return asyncio.run(main())


def agent(run_id: str) -> Any:
    made = DBOSAgent(agent_name=unique("agent"), orig_agent=lambda: ordinary().agents[0])
    with SetWorkflowID(run_id):
        return made.kickoff("What of otters?")


def started(run_id: str) -> Any:
    with SetWorkflowID(run_id):
        return crew_of().start({"topic": "otters"}).get_result()


def async_tasks(run_id: str) -> Any:
    with SetWorkflowID(run_id):
        return crew_of(tasks=3, at_once=True).kickoff({"topic": "otters"})


def flow(run_id: str) -> Any:
    made = DBOSFlow(flow_name=unique("flow"), orig_flow=Two)
    with SetWorkflowID(run_id):
        return made.kickoff()


KINDS: dict[str, tuple[Callable[[str], Any], int]] = {
    "crew": (crew, 1),
    "async crew": (crew_async, 1),
    "agent": (agent, 1),
    "started": (started, 1),
    "async tasks": (async_tasks, 2),
    "flow": (flow, 2),
}
"""Each with how many requests it makes at the same time."""


@pytest.mark.parametrize(
    ("kind", "url"),
    some_here(
        product(KINDS, ["sqlite", "postgres"]),
        [("crew", "postgres"), *((kind, "sqlite") for kind in KINDS)],
    ),
    indirect=["url"],
)
def test_a_request_to_an_llm_is_left(kind: str, control: Control, serve: Serve) -> None:
    kickoff, at_once = KINDS[kind]
    held = hang(text("Late."))
    server = serve(lambda request: held)
    run_id = unique("run")
    caller = Called(lambda: kickoff(run_id))
    held.wait_until_held(at_once)
    began = time.monotonic()
    control.cancel(run_id, by="ann", reason="Otters are out.")
    with pytest.raises(RunCancelledError, match="by ann: Otters are out") as caught:
        caller.result()
    assert time.monotonic() - began < AT_ONCE
    assert not isinstance(caught.value, DeadlinePassedError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.by, again.reason, str(again)) == ("ann", "Otters are out.", str(caught.value))
    assert status(run_id) == "CANCELLED"
    sent = len(server.requests)
    # Let go, what was left behind changes nothing.
    held.release()
    steps = [each["function_name"] for each in DBOS.list_workflow_steps(run_id)]
    control.resume(run_id)
    DBOS.retrieve_workflow(run_id).get_result()
    assert len(server.requests) >= sent + at_once, f"made again, as none was recorded: {steps}"


def test_a_deadline_leaves_a_request_too(control: Control, serve: Serve) -> None:
    held = hang(text("Late."))
    serve(lambda request: held)
    began = time.monotonic()
    with SetWorkflowTimeout(0.5), pytest.raises(DeadlinePassedError, match="deadline") as caught:
        crew_of().kickoff({"topic": "otters"})
    assert time.monotonic() - began < AT_ONCE
    assert (caught.value.by, caught.value.reason) == (None, None)
    held.release()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    opened = threading.Event()
    yield opened
    opened.set()


def calling(*calls: ToolCall) -> Callable[[Request], Reply]:
    return lambda request: text("done") if request.tool_results else tool_calls(*calls)


@pytest.mark.parametrize("how", ["started", "async"])
def test_a_tool_is_left_behind(
    how: str, control: Control, serve: Serve, gate: threading.Event
) -> None:
    """Three of them at once; what they return is neither used nor recorded."""
    begun = threading.Semaphore(0)

    @tool
    def work(number: int) -> str:
        """Work."""
        begun.release()
        gate.wait(60)
        return f"worked on {number}"

    server = serve(calling(*(ToolCall("work", {"number": n}) for n in range(3))))
    made, run_id = crew_of(work), unique("run")

    def kickoff() -> Any:
        with SetWorkflowID(run_id):
            if how == "started":
                return made.start({"topic": "otters"}).get_result()
            return asyncio.run(akickoff())

    async def akickoff() -> Any:
        return await made.akickoff({"topic": "otters"})

    caller = Called(kickoff)
    for _ in range(3 if how == "started" else 1):
        assert begun.acquire(timeout=20)
    began = time.monotonic()
    control.cancel(run_id)
    with pytest.raises(RunCancelledError):
        caller.result()
    assert time.monotonic() - began < AT_ONCE
    gate.set()
    control.resume(run_id)
    assert DBOS.retrieve_workflow(run_id).get_result()
    assert len(server.requests) == 2


def test_a_kickoff_waits_for_the_tool_on_its_own_thread(
    control: Control, serve: Serve, gate: threading.Event
) -> None:
    begun, after = threading.Event(), []

    @tool
    def work(number: int) -> str:
        """Work."""
        begun.set()
        gate.wait(60)
        after.append(number)
        return "worked"

    server = serve(calling(ToolCall("work", {"number": 1})))
    run_id = unique("run")

    def kickoff() -> Any:
        with SetWorkflowID(run_id):
            return crew_of(work).kickoff({"topic": "otters"})

    caller = Called(kickoff)
    assert begun.wait(20)
    control.cancel(run_id, by="ann")
    gate.set()
    with pytest.raises(RunCancelledError, match="by ann"):
        caller.result()
    assert after == [1]
    assert len(server.requests) == 1, "no call begins after it"


def test_no_retry_begins_after_it(control: Control, serve: Serve) -> None:
    server = serve(lambda request: error(429, retry_after=30))
    run_id = unique("run")
    caller = Called(lambda: crew(run_id))
    until(lambda: server.requests)
    began = time.monotonic()
    control.cancel(run_id)
    with pytest.raises(RunCancelledError):
        caller.result()
    assert time.monotonic() - began < AT_ONCE
    assert len(server.requests) == 1


def test_a_run_on_a_queue_that_has_not_begun(control: Control, serve: Serve) -> None:
    server = serve()
    name = unique("queue")
    DBOS.register_queue(name, polling_interval_sec=600)
    run = crew_of().start({"topic": "otters"}, queue=name)
    control.cancel(run.workflow_id, by="ann", reason="Nobody needs it")
    with pytest.raises(RunCancelledError, match="by ann: Nobody needs it"):
        run.get_result()
    assert server.requests == []


@pytest.mark.parametrize("config", [None, StepConfig(), StepConfig(retries_allowed=True)])
def test_no_tool_begins_after_it(config: StepConfig | None, control: Control) -> None:
    """A method works on, as nothing cuts short what it does by itself."""
    run_id, begun = unique("run"), []

    @tool("note")
    def note(what: str) -> str:
        """Note."""
        begun.append(what)
        return "noted"

    class Notes(Flow[dict[str, Any]]):
        @start()
        def one(self) -> str:
            if not begun:
                begun.append("one")
                control.cancel(run_id, by="ann")
            return str(note.run(what="otters"))

    made = DBOSFlow(flow_name=unique("flow"), orig_flow=Notes, tool_step_config=config)
    with SetWorkflowID(run_id), pytest.raises(RunCancelledError, match="by ann"):
        made.kickoff()
    assert begun == ["one"]
    control.resume(run_id)
    assert made.retrieve(run_id).get_result() == "noted"
    assert begun == ["one", "otters"]


def test_no_method_begins_after_it(control: Control) -> None:
    """It is cancelled while it goes on with what is recorded."""
    run_id, begun, cancels = unique("run"), [], ["in two", "as it is built"]

    class Notes(Flow[dict[str, Any]]):
        @start()
        def one(self) -> str:
            return "one"

        @listen(one)
        def two(self, _: str) -> str:
            begun.append("two")
            if cancels and cancels[0] == "in two":
                control.cancel(run_id, by=cancels.pop(0))
            return "two"

    def build() -> Notes:
        if cancels and cancels[0] == "as it is built":
            control.cancel(run_id, by=cancels.pop(0))
        return Notes()

    made = DBOSFlow(flow_name=unique("flow"), orig_flow=build)
    with SetWorkflowID(run_id), pytest.raises(RunCancelledError, match="in two"):
        made.kickoff()
    control.resume(run_id)
    with pytest.raises(RunCancelledError, match="as it is built"):
        made.retrieve(run_id).get_result()
    assert begun == ["two"]
    control.resume(run_id)
    assert made.retrieve(run_id).get_result() == "two"
    assert begun == ["two", "two"]


@pytest.mark.parametrize("is_async", [False, True])
def test_in_a_workflow_of_the_users(is_async: bool, control: Control, serve: Serve) -> None:
    held = hang(text("Late."))
    server = serve(lambda request: held)
    made, run_id = crew_of(), unique("run")
    OWN[run_id] = made

    name = unique("queue")
    DBOS.register_queue(name, polling_interval_sec=0.05)
    with SetWorkflowID(run_id):
        DBOS.enqueue_workflow(name, own_async_workflow if is_async else own_workflow, run_id)
    held.wait_until_held()
    control.cancel(run_id, by="ann", reason="Enough")
    with pytest.raises(RunCancelledError, match="by ann: Enough"):
        made.retrieve(run_id).get_result()
    held.release()
    control.resume(run_id)
    assert made.retrieve(run_id).get_result() == ["Late.", "after"]
    assert len(server.requests) == 2


OWN: dict[str, Any] = {}


@DBOS.workflow(name="cancel.own")
def own_workflow(run_id: str) -> Any:
    return [OWN[run_id].kickoff({"topic": "otters"}).raw, step(lambda: "after")]


@DBOS.workflow(name="cancel.own_async")
async def own_async_workflow(run_id: str) -> Any:
    output = await OWN[run_id].akickoff({"topic": "otters"})
    return [output.raw, await asyncio.to_thread(step, lambda: "after")]


def test_on_the_command_line(url: str, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    held = hang(text("Well."))
    serve(lambda request: held)
    monkeypatch.setenv("DBOS_SYSTEM_DATABASE_URL", url)

    def runs(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["runs", *arguments])

    run = crew_of().start({"topic": "otters"})
    run_id = run.workflow_id
    held.wait_until_held()
    done = runs("cancel", run_id[:-1], "--reason", "Not now", "--by", "ann")
    assert (done.exit_code, done.stdout.count("\n")) == (0, 1)
    with pytest.raises(RunCancelledError, match="by ann: Not now"):
        run.get_result()
    again = runs("cancel", run_id)
    assert (again.exit_code, again.stdout) == (1, "")
    assert "cancelled already" in again.stderr
    held.release()
    assert runs("resume", run_id, "--timeout", "60").exit_code == 0
    assert run.get_result().raw == "Well."
    assert run.get_status().workflow_timeout_ms == 60_000
    assert "is done" in runs("resume", run_id).stderr
    assert runs("resume", "nobody's").exit_code == 1


def test_who_cancelled_a_run_stays_if_it_was_only_about_to_begin(
    control: Control, serve: Serve
) -> None:
    held = hang(text("Late."))
    serve(lambda request: held)
    run = crew_of().start({"topic": "otters"})
    held.wait_until_held()
    control.cancel(run.workflow_id, by="ann", reason="No more.")
    notes.clear(run.workflow_id, {})  # as its body does first, of what was said before
    with pytest.raises(RunCancelledError) as caught:
        run.get_result()
    assert (caught.value.by, caught.value.reason) == ("ann", "No more.")


@pytest.mark.crash
def test_what_is_said_is_sealed(tmp_path: Path, serve: Serve) -> None:
    """In a database of its own: one process has one DBOS."""
    url = f"sqlite:///{tmp_path}/sealed.sqlite"
    program = tmp_path / "sealed.py"
    program.write_text(SEALED)
    held = hang(text("Late."))
    server = serve(lambda request: held)
    done = python(program, url, folder=tmp_path, env={**os.environ, **server.env})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["ann secret reason", "None None"]
    assert b"secret reason" not in (tmp_path / "sealed.sqlite").read_bytes()


SEALED = """
import sys
from dbos import DBOS, DBOSClient
from crewai import Agent, Crew, Task
from crewai_dbos import DBOSCrew
from crewai_dbos.control import Control
from crewai_dbos.encryption import EncryptedSerializer
from crewai_dbos.errors import RunCancelledError

clerk = Agent(role="Clerk", goal="Work", backstory="Old.", llm="gpt-4o-mini")
task = Task(description="Work", expected_output="A line", agent=clerk)
crew = DBOSCrew(crew_name="crew", orig_crew=lambda: Crew(agents=[clerk], tasks=[task]))
serializer = EncryptedSerializer({"a": bytes(range(32))})
DBOS(config={"name": "sealed", "system_database_url": sys.argv[1], "serializer": serializer})
DBOS.launch()
run = crew.start()
with Control(sys.argv[1], serializer=serializer) as control:
    control.cancel(run.workflow_id, by="ann", reason="secret reason")
    try:
        run.get_result()
    except RunCancelledError as error:
        print(error.by, error.reason)
DBOS.destroy()
client = DBOSClient(system_database_url=sys.argv[1])
try:
    crew.retrieve(run.workflow_id, client=client).get_result()
except RunCancelledError as error:
    print(error.by, error.reason)
client.destroy()
"""
