"""What kinds of runs are forked by place, in whatever state they are."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from crewai import Crew
from crewai.flow.flow import Flow, and_, listen, start
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSCrew, DBOSFlow, People
from crewai_dbos.control import Approve, Control, Reply
from crewai_dbos.errors import ForkError
from crewai_dbos.testing import ModelServer, Request, text
from crews.scenarios import agent, answer, asked, task
from flows.scenarios import say
from people.conftest import until
from people.office import Post, office, writing
from support.databases import both_here
from support.names import unique
from support.runs import begin, follow_plainly
from support.serving import Serve, serving

BOTH = both_here("url")

MAIL = {"to": "ann@example.org", "body": "Hello."}


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, url: str) -> Iterator[Serve]:
    yield from serving(monkeypatch, answer)


def status(run_id: str) -> str:
    return str(DBOS.retrieve_workflow(run_id).get_status().status)


def made(server: ModelServer, before: int = 0) -> Counter[str]:
    return Counter(asked(request) for request in server.requests[before:])


def result(run_id: str) -> Any:
    return DBOS.retrieve_workflow(run_id).get_result()


def two(name: str) -> DBOSCrew:
    def build() -> Crew:
        writer = agent("Writer")
        tasks = [task(f"{name} one", writer, name="one"), task(f"{name} two", writer, name="two")]
        return Crew(agents=[writer], tasks=tasks)

    return DBOSCrew(crew_name=unique(name), orig_crew=build)


noted: list[str] = []


@DBOS.step(name="forks_note")
def note(what: str) -> str:
    noted.append(what)
    return what


@DBOS.workflow(name="forks_at_once")
async def at_once(run: str) -> Any:
    return await plans[run]()


plans: dict[str, Any] = {}


# Workflows of the user's -------------------------------------------------------------------


def test_steps_of_a_workflow_around_crews(serve: Serve, control: Control) -> None:
    server = serve()
    first, second = two("first"), two("second")
    run = unique("own")

    def plan() -> list[str]:
        return [note("before"), first.kickoff().raw, note("between"), second.kickoff().raw]

    noted.clear()
    expected = begin(plan, run, follow_plainly).get_result()
    before = len(server.requests)
    fork = control.fork(run, at=f"crew:{first.crew_name}/task:two")
    assert result(fork) == expected
    assert noted == ["before", "between", "between"]
    assert made(server, before) == {"first two": 1, "second one": 1, "second two": 1}
    before = len(server.requests)
    assert result(control.fork(run, at=f"crew:{second.crew_name}/task:two")) == expected
    assert made(server, before) == {"second two": 1}
    assert noted == ["before", "between", "between"]


def test_crews_at_once_in_a_workflow(serve: Serve, control: Control) -> None:
    both = threading.Barrier(2)

    def script(request: Request) -> Any:
        if "one" in asked(request):
            both.wait(30)
        return answer(request)

    server = serve(script)
    first, second = two("first"), two("second")
    run = unique("own")

    async def plan() -> list[str]:
        outputs = await asyncio.gather(first.akickoff(), second.akickoff())
        return [*(output.raw for output in outputs), note("after")]

    plans[run] = plan
    noted.clear()
    with SetWorkflowID(run):
        expected = DBOS.start_workflow(at_once, run).get_result()
    before = len(server.requests)
    fork = control.fork(run, at=f"crew:{first.crew_name}/task:two")
    assert result(fork) == expected
    assert made(server, before)["second one"] == made(server, before)["first one"] == 0
    assert noted == ["after", "after"]


def test_a_step_beside_a_crew_can_not_be_told_apart(serve: Serve, control: Control) -> None:
    stepped = threading.Event()

    def script(request: Request) -> Any:
        if "two" in asked(request):
            stepped.wait(30)
        return answer(request)

    serve(script)
    crew, run = two("first"), unique("own")

    async def plan() -> str:
        work = asyncio.ensure_future(crew.akickoff())
        while "first one" not in {asked(request) for request in seen()}:
            await asyncio.sleep(0.01)
        note("beside")
        stepped.set()
        return str((await work).raw)

    server = serve(script)
    seen = lambda: list(server.requests)  # noqa: E731
    plans[run] = plan
    with SetWorkflowID(run):
        DBOS.start_workflow(at_once, run).get_result()
    with pytest.raises(ForkError, match="made DBOS steps while"):
        control.fork(run, at="task:one")


def test_a_batch(serve: Serve, control: Control) -> None:
    server = serve()
    crew, batch = two("item"), unique("batch")
    with SetWorkflowID(batch):
        crew.kickoff_for_each([{}, {}])
    with pytest.raises(ForkError, match=f"Fork one of these: '{batch}/1'"):
        control.fork(batch, at="task:one")
    before = len(server.requests)
    result(control.fork(f"{batch}/2", at="task:two"))
    assert made(server, before) == {"item two": 1}


# States of a run -----------------------------------------------------------------------------


def test_a_run_that_is_at_work(serve: Serve, control: Control) -> None:
    held, go_on = threading.Event(), threading.Event()

    def script(request: Request) -> Any:
        if "two" in asked(request) and not held.is_set():
            held.set()
            go_on.wait(30)
        return answer(request)

    server, crew = serve(script), two("held")
    run = crew.start()
    assert held.wait(30)
    fork = control.fork(run.workflow_id, edit={"task:one": "One!"})
    assert "One!" in result(fork)["fields"]["raw"]
    assert status(run.workflow_id) == "PENDING"
    go_on.set()
    run.get_result()
    assert made(server) == {"held one": 1, "held two": 2}


def test_a_cancelled_run_and_a_version(serve: Serve, control: Control) -> None:
    held, go_on = threading.Event(), threading.Event()

    def script(request: Request) -> Any:
        if "two" in asked(request) and not held.is_set():
            held.set()
            go_on.wait(30)
        return answer(request)

    server, crew = serve(script), two("cut")
    run = crew.start()
    assert held.wait(30)
    DBOS.cancel_workflow(run.workflow_id)
    go_on.set()
    fork = control.fork(run.workflow_id, at="task:one", version="another")
    found = DBOS.retrieve_workflow(fork).get_status()
    assert (found.status, found.app_version) == ("ENQUEUED", "another")
    DBOS.cancel_workflow(fork)
    result(control.fork(run.workflow_id, at="task:one"))
    assert status(run.workflow_id) == "CANCELLED"
    assert made(server) == {"cut one": 2, "cut two": 2}


@BOTH
def test_a_run_that_waits_for_a_person(serve: Serve, control: Control) -> None:
    server, post = serve(writing(MAIL)), Post()
    crew = office(post, People(approve_tools=["send_email"], linger=0.1))
    run = crew.start({"who": "Ann"})
    until(lambda: status(run.workflow_id) == "DELAYED")
    fork = control.fork(run.workflow_id, at="llm#1")
    (asked_anew,) = until(lambda: control.requests(run_id=fork))
    control.answer(asked_anew.request_id, Approve())
    assert "sent to" in result(fork)["fields"]["raw"]
    assert (status(run.workflow_id), len(post.sent)) == ("DELAYED", 1)
    (first,) = control.requests(run_id=run.workflow_id)
    control.answer(first.request_id, Approve())
    run.get_result()
    # What was answered is kept, and can be another answer.
    before = len(server.requests)
    result(control.fork(run.workflow_id, at="llm#2"))
    refused = {"approval:tool:send_email": {"is": "reject", "reason": "Too late"}}
    assert "Too late" in result(control.fork(run.workflow_id, edit=refused))["fields"]["raw"]
    assert (len(post.sent), len(server.requests) - before) == (2, 2)


class Asks(Flow):
    @start()
    def begin(self) -> str:
        return str(self.ask("Which topic?"))

    @listen(begin)
    def write(self, topic: str) -> str:
        return say(f"on {topic}")


def test_another_answer_of_a_person(serve: Serve, control: Control) -> None:
    serve(lambda request: text(f"<{request.last_user_text}>"))
    flow = DBOSFlow(flow_name=unique("asks"), orig_flow=Asks, people=People(linger=0.1))
    run = flow.start()
    (request,) = until(lambda: control.requests(run_id=run.workflow_id))
    control.answer(request.request_id, Reply("otters"))
    assert run.get_result() == "<on otters>"
    fork = control.fork(run.workflow_id, edit={"method:begin/ask#1": "boats"})
    assert result(fork) == "<on boats>"
    assert control.requests(run_id=fork) == []


# What DBOS keeps beside the steps ----------------------------------------------------------


class Tells(Flow):
    @start()
    def begin(self) -> None:
        DBOS.set_event("said", "begin")

    @listen(begin)
    def left(self) -> str:
        DBOS.write_stream("told", "left")
        return note("left")

    @listen(begin)
    def right(self) -> str:
        DBOS.write_stream("told", "right")
        return note("right")

    @listen(and_(left, right))
    def last(self) -> str:
        DBOS.set_event("said", "last")
        DBOS.write_stream("told", "last")
        DBOS.close_stream("told")
        return say("last")


@BOTH
def test_events_streams_and_steps(serve: Serve, control: Control) -> None:
    serve(lambda request: text(request.last_user_text))
    flow = DBOSFlow(flow_name=unique("tells"), orig_flow=Tells)
    noted.clear()
    run = flow.start()
    run.get_result()
    for at, anew in (("left", "left"), ("right", "right")):
        noted.clear()
        fork = control.fork(run.workflow_id, at=f"method:{at}")
        assert result(fork) == "last"
        assert noted == [anew]
        kept = "right" if at == "left" else "left"
        assert list(DBOS.read_stream(fork, "told")) == [kept, at, "last"]
        assert DBOS.get_event(fork, "said") == "last"
