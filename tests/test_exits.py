"""Runs whose code raises what is no `Exception`, and runs that are cut short from outside."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.events.event_context import get_current_parent_id
from crewai.flow.flow import Flow, router, start
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSAgent, DBOSCrew, DBOSFlow, step
from crewai_dbos._signals import RunSuspended
from crewai_dbos.errors import RunAbortedError
from crewai_dbos.testing import (
    EffectLog,
    Reply,
    Request,
    ToolCall,
    hang,
    text,
    tool_calls,
)
from crewai_dbos.testing.effects import EFFECTS
from support.launching import launched
from support.names import unique
from support.python import Program
from support.serving import Serve, serving

RAISED: list[BaseException] = []
"""What the next call raises, if anything."""

DONE: list[str] = []


@tool
def leave(how: str) -> str:
    """Leave the program."""
    return left(how)


def left(how: str) -> str:
    DONE.append(how)
    if RAISED:
        raise RAISED[0]
    return "still here"


def worker() -> Agent:
    return Agent(role="Clerk", goal="Work", backstory="Old", llm="gpt-4o-mini", tools=[leave])


def crew() -> Crew:
    agent = worker()
    task = Task(description="Leave", expected_output="A line", agent=agent)
    return Crew(agents=[agent], tasks=[task])


class Routed(Flow[dict[str, Any]]):
    @start()
    def one(self) -> str:
        return step(left_before)

    @router(one)
    def choose(self) -> str:
        return left("router")


class AsyncRouted(Flow[dict[str, Any]]):
    @start()
    async def one(self) -> str:
        return await asyncio.to_thread(step, left_before)

    @router(one)
    async def choose(self) -> str:
        return left("router")


def left_before() -> str:
    DONE.append("before")
    return "before"


ORDINARY: dict[str, Callable[[], Any]] = {"crew": crew, "flow": Routed, "async flow": AsyncRouted}


def durable(kind: str) -> Any:
    if kind == "crew":
        return DBOSCrew(crew_name=unique("crew"), orig_crew=crew)
    return DBOSFlow(flow_name=unique("flow"), orig_flow=ORDINARY[kind])


def model(request: Request) -> Reply:
    if request.tool_results:
        return text("Done.")
    return tool_calls(ToolCall("leave", {"how": "tool"}))


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database of the test's own: a run that another test leaves pending would go on here."""
    return f"sqlite:///{tmp_path}/dbos.sqlite"


@pytest.fixture
def database(url: str) -> Iterator[str]:
    with launched(url):
        yield url


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    yield from serving(monkeypatch, model)


@pytest.fixture(autouse=True)
def nothing_yet() -> Iterator[None]:
    yield
    RAISED.clear()
    DONE.clear()


def lines(caplog: pytest.LogCaptureFixture, run_id: str) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "crewai_dbos"
        and record.levelno >= logging.WARNING
        and run_id in record.getMessage()
    ]


ERRORS = {
    "exit": SystemExit(3),
    "cancelled": asyncio.CancelledError("by the tool"),
    "interrupt": KeyboardInterrupt("by the tool"),
    "generator": GeneratorExit(),
    "own": BaseException("of a library"),
}


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        *(pytest.param("crew", error, id=f"crew, {name}") for name, error in ERRORS.items()),
        *(pytest.param(kind, ERRORS["exit"], id=kind) for kind in ("flow", "async flow")),
    ],
)
def test_a_run_in_the_background_is_stopped(
    kind: str, error: BaseException, database: str, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    RAISED.append(error)
    wrapped = durable(kind)
    with SetWorkflowID(run_id := unique("run")):
        run = wrapped.start()
    with pytest.raises(RunAbortedError, match=type(error).__name__) as caught:
        run.get_result()
    assert f"crewai-dbos runs resume {run_id}" in str(caught.value)
    assert f"{__file__}:" in str(caught.value)
    assert len(lines(caplog, run_id)) == 1
    assert run.get_status().status == "CANCELLED"
    with pytest.raises(RunAbortedError), SetWorkflowID(run_id):
        wrapped.kickoff()
    before = len(server.requests)
    RAISED.clear()
    DBOS.resume_workflow(run_id)
    result = run.get_result()
    assert "Done." in str(result) or result == "still here"
    assert DONE.count("before") <= 1, "what is recorded is not done again"
    assert DONE.count("tool" if kind == "crew" else "router") == 2
    assert len(server.requests) - before == (1 if kind == "crew" else 0)


def test_it_is_not_begun_again_at_a_launch(url: str, serve: Serve) -> None:
    serve()
    RAISED.append(SystemExit(3))
    wrapped = durable("crew")
    with launched(url):
        run = wrapped.start()
        with pytest.raises(RunAbortedError):
            run.get_result()
    with launched(url):
        # One that does go on has had the time to.
        assert durable("flow").start().get_status().status
        with pytest.raises(RunAbortedError):
            run.get_result()
    assert DONE.count("tool") == 1


def kickoff(what: Any) -> Any:
    return what.kickoff()


def akickoff(what: Any) -> Any:
    async def work() -> Any:
        return await what.akickoff()

    return asyncio.run(work())


@pytest.mark.parametrize("ask", [kickoff, akickoff])
@pytest.mark.parametrize(
    ("kind", "error"),
    [("crew", ERRORS["exit"]), ("crew", ERRORS["cancelled"]), ("async flow", ERRORS["exit"])],
    ids=["exit", "cancelled", "exit of a flow"],
)
def test_whoever_has_called_it_gets_what_crewai_alone_raises(
    kind: str, error: BaseException, ask: Any, database: str, serve: Serve
) -> None:
    serve()
    RAISED.append(error)
    with pytest.raises(type(error)) as plain:
        copy_context().run(ask, ORDINARY[kind]())
    before = get_current_parent_id()
    with pytest.raises(type(error)) as ours, SetWorkflowID(run_id := unique("run")):
        ask(durable(kind))
    assert get_current_parent_id() == before, "what comes next is no part of it"
    assert ours.value.args == plain.value.args
    assert DBOS.get_workflow_status(run_id).status == "CANCELLED"  # type: ignore[union-attr]


def test_a_task_that_is_cancelled_from_outside_leaves_the_run_to_go_on(
    database: str, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    held = hang(text("Done."))
    serve(lambda request: held)
    wrapped, run_id = durable("crew"), unique("run")

    async def work() -> None:
        with SetWorkflowID(run_id):
            task = asyncio.ensure_future(wrapped.akickoff())
        await asyncio.to_thread(held.wait_until_held)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(work())
    assert DBOS.get_workflow_status(run_id).status == "PENDING"  # type: ignore[union-attr]
    (line,) = lines(caplog, run_id)
    assert "is kept" in line
    held.release()


class Printing(Flow[dict[str, Any]]):
    @start()
    def one(self) -> None:
        try:
            raise BrokenPipeError
        except BrokenPipeError:
            raise SystemExit(1)  # noqa: B904  # as the console does that crewAI prints to


def test_a_program_whose_reader_has_gone_keeps_the_run(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    flow = DBOSFlow(flow_name=unique("flow"), orig_flow=Printing)
    with SetWorkflowID(run_id := unique("run")), pytest.raises(SystemExit):
        flow.kickoff()
    assert DBOS.get_workflow_status(run_id).status == "PENDING"  # type: ignore[union-attr]
    (line,) = lines(caplog, run_id)
    assert "is kept" in line


ASKED: list[Any] = []
"""What a workflow of the user's kicks off."""


def clerk() -> DBOSAgent:
    return DBOSAgent(agent_name=unique("clerk"), orig_agent=worker(), tool_step_config={})


@DBOS.workflow()
def of_the_user() -> str:
    return str(ASKED[-1].kickoff("Leave").raw)


@DBOS.workflow()
async def of_the_user_async() -> str:
    """DBOS runs it on a loop of its own, which an `exit()` must not end."""
    how = ("Leave",) if isinstance(ASKED[-1], DBOSAgent) else ()
    return str(await ASKED[-1].kickoff_async(*how))


@pytest.mark.parametrize(
    ("workflow", "asked", "raised"),
    [
        (of_the_user, clerk, SystemExit),
        (of_the_user_async, clerk, RunSuspended),
        (of_the_user_async, lambda: durable("crew"), RunSuspended),
        (of_the_user_async, lambda: durable("async flow"), RunSuspended),
    ],
    ids=["sync", "agent", "crew", "flow"],
)
def test_a_workflow_of_the_users_own(
    workflow: Any,
    asked: Any,
    raised: type[BaseException],
    url: str,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = serve()
    RAISED.append(SystemExit(3))
    ASKED.append(asked())
    with launched(url):
        with SetWorkflowID(run_id := unique("run")):
            handle = DBOS.start_workflow(workflow)
        with pytest.raises(raised, match="3"):
            handle.get_result()
        assert DBOS.get_workflow_status(run_id).status == "PENDING"  # type: ignore[union-attr]
    (line,) = lines(caplog, run_id)
    assert "goes on at the next DBOS.launch()" in line
    requests = len(server.requests)
    RAISED.clear()
    with launched(url):
        answer = str(DBOS.retrieve_workflow(run_id).get_result())
    assert "Done." in answer or "still here" in answer
    assert len(server.requests) == requests * 2


@DBOS.workflow()
async def of_the_program() -> str:
    return str(await ASKED[-1].kickoff_async("Leave"))


def test_a_workflow_on_the_loop_of_the_program(
    url: str, caplog: pytest.LogCaptureFixture, serve: Serve
) -> None:
    """DBOS that is launched in a loop works there, and `exit()` ends the program as ever."""
    serve()
    RAISED.append(SystemExit(3))
    ASKED.append(clerk())
    run_id = unique("run")

    async def main() -> None:
        with launched(url), SetWorkflowID(run_id):
            await of_the_program()

    with pytest.raises(SystemExit, match="3"):
        asyncio.run(main())
    with launched(url):
        RAISED.clear()
        assert "Done." in str(DBOS.retrieve_workflow(run_id).get_result())
    (line,) = lines(caplog, run_id)
    assert "goes on at the next DBOS.launch()" in line


# The end of a process ----------------------------------------------------------------------------

PROGRAM = """
import signal, sys, time
from crewai.flow.flow import Flow, listen, start
from dbos import DBOS, SetWorkflowID
from crewai_dbos import DBOSFlow, step
from crewai_dbos.testing import report_effect

def stop(number, frame):
    sys.exit(0)

signal.signal(signal.SIGTERM, {handler})

def send():
    report_effect("sent")

def work():
    report_effect("working")
    print("working", flush=True)
    if sys.argv[1:] == ["wait"]:
        {wait}

class Letters(Flow):
    @start()
    def one(self):
        step(send)
    @listen(one)
    def two(self):
        work()
        {end}
        return "all done"

letters = DBOSFlow(flow_name="letters", orig_flow=Letters)
DBOS(config={{"name": "letters", "log_level": "CRITICAL"}})
DBOS.launch()
with SetWorkflowID("otters"):
    print(letters.kickoff())
"""


def run_program(folder: Path, *arguments: str, wait: str = "pass", **other: str) -> Program:
    program = folder / "program.py"
    program.write_text(PROGRAM.format(wait=wait, **{"handler": "stop", "end": "", **other}))
    env = {**os.environ, EFFECTS: str(folder / "effects")}
    return Program(program, *arguments, folder=folder, env=env)


WAIT = "time.sleep(2)"


@pytest.mark.crash
@pytest.mark.parametrize(
    ("number", "handler"),
    [
        (signal.SIGINT, "stop"),
        (signal.SIGTERM, "lambda *_: (signal.signal(signal.SIGTERM, signal.SIG_DFL), stop(*_))"),
    ],
    ids=["Ctrl-C", "a handler"],
)
def test_a_process_that_is_stopped_keeps_the_run(
    number: signal.Signals, handler: str, tmp_path: Path
) -> None:
    log = EffectLog(tmp_path / "effects")
    process = run_program(tmp_path, "wait", wait=WAIT, handler=handler)
    process.says("working")
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGINT else 0), said
    assert said.count("is kept") == 1
    assert "goes on at the next DBOS.launch()" in said
    assert len(said.splitlines()) < 20, said
    process = run_program(tmp_path)
    printed, said = process.communicate(timeout=60)
    assert "all done" in printed, said
    assert log.count("sent") == 1


@pytest.mark.crash
def test_exit_in_a_method_ends_the_program_with_its_status(tmp_path: Path) -> None:
    process = run_program(tmp_path, end="sys.exit(5)")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 5
    assert said.count("Stopped: Run 'otters'") == 1
    assert EffectLog(tmp_path / "effects").count("working") == 1


class AsyncPrinting(Flow[dict[str, Any]]):
    @start()
    async def one(self) -> None:
        try:
            raise BrokenPipeError
        except BrokenPipeError:
            raise SystemExit(1)  # noqa: B904


def test_an_async_run_that_is_kept_leaves_the_event_loop_of_dbos_alone(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    flow = DBOSFlow(flow_name=unique("flow"), orig_flow=AsyncPrinting)
    with SetWorkflowID(run_id := unique("run")), pytest.raises(SystemExit):
        asyncio.run(flow.akickoff())
    fork = DBOS.fork_workflow(run_id, 1).get_workflow_id()  # on the loop of DBOS
    deadline = time.monotonic() + 20
    while not lines(caplog, fork) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert ["is kept" in line for line in lines(caplog, fork)] == [True]
    assert DBOS.get_workflow_status(fork).status == "PENDING"  # type: ignore[union-attr]

    @DBOS.workflow(name=unique("next"))
    async def follow() -> str:
        await asyncio.sleep(0)
        return "goes on"

    assert DBOS.start_workflow(follow).get_result() == "goes on"
