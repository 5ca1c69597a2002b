"""A thread that several runs use: what it does for each is recorded there, and it outlives them."""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import os
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from crewai import Crew
from crewai.events import crewai_event_bus
from crewai.flow.flow import Flow, listen, start
from dbos import DBOS, SetWorkflowID
from pydantic import BaseModel

import crewai_dbos
from crewai_dbos import ConcurrentRunError, DBOSCrew, DBOSFlow, LostContextError
from crewai_dbos._journal import run_scope
from crewai_dbos.testing import ModelServer, Request
from crews.scenarios import agent, answer, model, task
from flows.scenarios import echo, search
from flows.workers import SERVICES, InPool, Subclassed, Unhooked, Worker, ask_model
from support.databases import some_here
from support.names import unique
from support.python import python
from support.replays import World, done, kind_of
from support.serving import Serve


class Question(BaseModel):
    id: str = ""
    text: str = ""


Make = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def made() -> Iterator[Make]:
    """Makes services that are stopped at the end."""
    services: list[Any] = []

    def make(service: Callable[[], Any]) -> Any:
        services.append(service())
        return services[-1]

    yield make
    for service in services:
        service.stop()


def asking(service: Callable[[str], str]) -> DBOSFlow:
    """A flow with one method, which asks `service`."""

    class Asking(Flow[Question]):
        @start()
        def ask(self) -> str:
            return service(self.state.text)

    return DBOSFlow(flow_name=unique("asking"), orig_flow=Asking)


def kick_off(flow: DBOSFlow, text: str) -> str:
    """Run `flow` to its end under an id that is returned."""
    run = unique(text)
    with SetWorkflowID(run):
        assert flow.kickoff({"text": text}) == f"<{text}>"
    return run


def answers(run: str) -> list[Any]:
    """What is recorded in a run of answers of the model."""
    steps = DBOS.list_workflow_steps(run)
    return [step["output"]["result"] for step in steps if kind_of(step) == "llm"]


def asked(server: ModelServer) -> list[str]:
    return [request.last_user_text for request in server.requests]


def check_replay(flow: DBOSFlow, text_of: dict[str, str], server: ModelServer) -> None:
    """Whoever recovers a run that died in its method asks the model nothing again."""
    before = len(server.requests)
    for run, text in text_of.items():
        # One after the other: not every service tells apart who asks it at the same time.
        fork = DBOS.fork_workflow(run, len(DBOS.list_workflow_steps(run))).get_workflow_id()
        assert flow.retrieve(fork).get_result() == f"<{text}>"
    assert len(server.requests) == before


# One after the other, and at the same time --------------------------------------------------


ALIKE = ("lifo", "priority", *(f"ThreadPool.{how}" for how in ("imap", "starmap", "map_async")))
"""As those of the queue, of `imap_unordered`, `map` and `apply_async`: one more name each."""


@pytest.mark.parametrize("name", some_here(SERVICES, SERVICES.keys() - {*ALIKE}))
def test_each_tenant_s_call_is_in_its_own_run(name: str, serve: Serve, made: Make) -> None:
    server, service = serve(), made(SERVICES[name])
    flow = asking(service)
    first, second = kick_off(flow, "A"), kick_off(flow, "B")
    assert service("C") == "<C>"
    third = kick_off(flow, "D")
    assert [answers(run) for run in (first, second, third)] == [["<A>"], ["<B>"], ["<D>"]]
    assert asked(server) == ["A", "B", "C", "D"]
    check_replay(flow, {first: "A", second: "B", third: "D"}, server)


@pytest.mark.parametrize("name", ["queue", "functions", "in a context of its own", "task"])
def test_two_tenants_and_a_plain_one_at_the_same_time(name: str, serve: Serve, made: Make) -> None:
    together = threading.Barrier(4)
    service = made(SERVICES[name])

    def script(request: Request) -> Any:
        if request.last_user_text == "A" and not got:
            together.wait(30)
        return echo(request)

    server = serve(script)
    flow = asking(service)
    got: dict[str, Any] = {}

    def tenant(text: str, do: Callable[[], Any]) -> threading.Thread:
        def work() -> None:
            if text != "A":
                together.wait(30)
            got[text] = do()

        return threading.Thread(target=work)

    tenants = [
        tenant("A", lambda: kick_off(flow, "A")),
        tenant("B", lambda: kick_off(flow, "B")),
        tenant("C", lambda: kick_off(flow, "C")),
        tenant("plain", lambda: service("plain")),
    ]
    for thread in tenants:
        thread.start()
    for thread in tenants:
        thread.join(60)
    assert got["plain"] == "<plain>"
    assert sorted(asked(server)) == ["A", "B", "C", "plain"]
    for text in "ABC":
        assert answers(got[text]) == [f"<{text}>"]
    check_replay(flow, {got[text]: text for text in "ABC"}, server)


@pytest.mark.parametrize("make", [Worker, Subclassed])
def test_a_worker_that_was_started_before_any_run(make: Any, serve: Serve, made: Make) -> None:
    server, service = serve(), made(make)
    service.start()
    assert service("plain") == "<plain>"
    flow = asking(service)
    for text in "AB":
        run = kick_off(flow, text)
        assert answers(run) == [f"<{text}>"]
        check_replay(flow, {run: text}, server)


@pytest.mark.crash
def test_a_worker_that_was_waiting_before_there_was_a_durable_flow(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve()
    folder = Path(__file__).parents[1]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    ran = python("-m", "flows.early_worker", tmp_path, folder=folder, env=env)
    assert ran.returncode == 0, ran.stderr
    recorded = json.loads(ran.stdout.splitlines()[-1])
    assert sum("/method:ask#1/llm" in name for name in recorded) == 1
    assert asked(server) == ["A"]


class Idling(Worker):
    """Asks the model something of its own when no job is due."""

    def __init__(self) -> None:
        super().__init__()
        self.due, self.done = threading.Event(), threading.Event()

    def next(self) -> Any:
        while True:
            try:
                return self.jobs.get(timeout=0.05)
            except queue.Empty:
                if self.due.is_set() and not self.done.is_set():
                    ask_model("of itself")
                    self.done.set()


def test_what_a_worker_does_between_jobs_is_nobody_s(serve: Serve, made: Make) -> None:
    server, service = serve(), made(Idling)
    service.start()

    class Waiting(Flow[Question]):
        @start()
        def ask(self) -> str:
            answer = service(self.state.text)
            service.due.set()
            assert service.done.wait(30)
            return str(answer)

    run = kick_off(DBOSFlow(flow_name=unique("waiting"), orig_flow=Waiting), "A")
    assert asked(server) == ["A", "of itself"]
    assert answers(run) == ["<A>"]


def test_a_worker_that_a_method_has_only_started(serve: Serve, made: Make) -> None:
    """What others put on its queue afterwards is known not to be a run's."""
    server, service = serve(), made(Worker)
    at_work, go_on = threading.Event(), threading.Event()

    def wait(text: str) -> str:
        at_work.set()
        assert go_on.wait(30)
        return text

    kick_off(asking(lambda text: service.start() or f"<{text}>"), "A")
    run = asking(wait).start({"text": "B"})
    assert at_work.wait(30)
    assert service("plain") == "<plain>"
    go_on.set()
    assert run.get_result() == "B"
    assert asked(server) == ["plain"]
    assert answers(run.workflow_id) == []


def test_another_method_of_the_same_run(serve: Serve, made: Make) -> None:
    """The method that started the worker has ended, its run has not."""
    serve()
    service = made(Worker)

    class Two(Flow[Question]):
        @start()
        def one(self) -> str:
            return str(service("one"))

        @listen(one)
        def two(self, said: str) -> str:
            return str(service(f"two {said}"))

    run = DBOSFlow(flow_name=unique("two"), orig_flow=Two).start()
    assert run.get_result() == "<two <one>>"
    names = [step["function_name"] for step in DBOS.list_workflow_steps(run.workflow_id)]
    asked_by = [name.split("/")[1] for name in names if "/llm" in name]
    assert asked_by == ["method:one#1", "method:two#1"]


# Other ways to hand a job over ---------------------------------------------------------------


def test_a_job_that_could_be_anybody_s_is_refused(serve: Serve, made: Make) -> None:
    server, service = serve(), made(Unhooked)
    flow = asking(service)
    run = kick_off(flow, "A")
    assert answers(run) == ["<A>"]
    assert service("plain") == "<plain>"
    with pytest.raises(LostContextError, match=r"module is imported.*queue\.Queue.*copy_context"):
        flow.kickoff({"text": "B"})
    assert service("plain again") == "<plain again>"
    assert asked(server) == ["A", "plain", "plain again"]


DONE: list[str] = []


def do(text: str) -> str:
    DONE.append(text)
    return text


def crew(text: str) -> Crew:
    clerk = agent("Clerk")
    return Crew(agents=[clerk], tasks=[task(text, clerk), task(f"Check {text}", clerk)])


@functools.cache
def durable_crew() -> DBOSCrew:
    return DBOSCrew(crew_name=unique("crew"), orig_crew=crew("{text}"))


class Inner(Flow[Question]):
    @start()
    def ask(self) -> str:
        return ask_model(self.state.text)


WORK: dict[str, Callable[[str], str]] = {
    "llm": ask_model,
    "llm in a loop": lambda text: str(asyncio.run(aask_model(text))),
    "step": lambda text: crewai_dbos.step(do, text),
    "agent": lambda text: str(agent("Clerk").kickoff(text)),
    "crew": lambda text: str(crew(text).kickoff()),
    "durable crew": lambda text: str(durable_crew().kickoff({"text": text})),
    "tool": lambda text: str(search.run(query=text)),
    "flow": lambda text: str(Inner().kickoff({"text": text})),
}
"""What a job may do."""


async def aask_model(text: str) -> Any:
    return await model().acall(text)


@pytest.mark.parametrize("what", WORK)
def test_nothing_of_such_a_job_goes_unrecorded(
    what: str, serve: Serve, made: Make, world: World
) -> None:
    server = serve(answer)
    log = world("effects", server)
    durable_crew.cache_clear()
    service = made(lambda: Unhooked(WORK[what]))
    flow = asking(service)
    expected = flow.kickoff({"text": "A"})
    before = len(server.requests), len(done(log)), len(DONE)
    with pytest.raises(LostContextError):
        flow.kickoff({"text": "A"})
    assert (len(server.requests), len(done(log)), len(DONE)) == before
    assert service("A") == expected


@pytest.mark.parametrize("what", WORK)
def test_whatever_a_job_does_is_in_the_run_it_came_from(
    what: str, serve: Serve, made: Make, world: World
) -> None:
    server = serve(answer)
    log = world("effects", server)
    durable_crew.cache_clear()
    service = made(lambda: Worker(ask=WORK[what]))
    service.start()
    flow = asking(service)
    run = flow.start({"text": "A"})
    expected = run.get_result()
    steps = DBOS.list_workflow_steps(run.workflow_id)
    assert len(steps) > 2, "state, outcome, and what the job did"
    before = len(server.requests), len(done(log)), len(DONE)
    last = DBOS.fork_workflow(run.workflow_id, steps[-1]["function_id"]).get_workflow_id()
    assert flow.retrieve(last).get_result() == expected
    assert (len(server.requests), len(done(log)), len(DONE)) == before


def test_a_plain_call_that_has_begun_is_brought_to_its_end(serve: Serve, made: Make) -> None:
    """Though a durable method begins meanwhile, it can't be that one's."""
    begun, go_on = threading.Event(), threading.Event()

    def script(request: Request) -> Any:
        if "first" in request.last_user_text and not begun.is_set():
            begun.set()
            assert go_on.wait(30)
        return answer(request)

    server = serve(script)
    service = made(lambda: Unhooked(WORK["crew"]))
    asking(service).kickoff({"text": "started"})

    class Beside(Flow[Question]):
        @start()
        def wait(self) -> str:
            go_on.set()
            plain.join(30)
            return "done"

    got: list[str] = []
    plain = threading.Thread(target=lambda: got.append(service("first")))
    plain.start()
    assert begun.wait(30)
    assert DBOSFlow(flow_name=unique("beside"), orig_flow=Beside).kickoff() == "done"
    assert got == ["Clerk on Check first given [Clerk on first]"]
    assert len(server.requests) == 4


# What outlives a run --------------------------------------------------------------------------


def is_gone(what: weakref.ref[Any]) -> bool:
    """Whether nobody keeps it. Threads that carried out a run take a moment to put it down."""
    assert crewai_event_bus.flush()
    deadline = time.monotonic() + 10
    while what() is not None and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.05)
    return what() is None


@pytest.mark.parametrize("make", [Worker, Unhooked, InPool])
def test_nothing_of_a_run_is_kept(make: Any, serve: Serve, made: Make) -> None:
    serve()
    service = made(make)
    journals: list[weakref.ref[Any]] = []

    class Watched(Flow[Question]):
        @start()
        def ask(self) -> str:
            place = run_scope.enclosing()
            assert place is not None
            journals.append(weakref.ref(place.journal))
            return str(service(self.state.text))

    kick_off(DBOSFlow(flow_name=unique("watched"), orig_flow=Watched), "A")
    # LanceDB, which holds a flow's memory, keeps the context that it was last called in.
    kick_off(asking(lambda text: f"<{text}>"), "other")
    [journal] = journals
    assert is_gone(journal)
    assert service("plain") == "<plain>"


TENANT: ContextVar[str] = ContextVar("tenant", default="nobody")


@pytest.mark.parametrize("make", [Worker, Unhooked])
def test_a_variable_of_the_application_s_stays_with_its_tenant(
    make: Any, serve: Serve, made: Make
) -> None:
    """As in crewAI alone, a thread has none of who happened to start it."""
    serve()
    service = made(lambda: make(ask=lambda text: f"<{text}>" if TENANT.get() == "nobody" else "!"))
    flow = asking(service)
    token = TENANT.set("A")
    kick_off(flow, "A")
    TENANT.reset(token)
    assert service("plain") == "<plain>"
    kick_off(flow, "B")


def test_the_end_of_a_run_is_not_that_of_the_worker(serve: Serve, made: Make) -> None:
    server = serve()

    def ask(text: str) -> str:
        if text == "stamp":
            return str(crewai_dbos.now())
        return ask_model(text)

    service = made(lambda: Worker(ask=ask))
    flow = asking(service)
    with pytest.raises(ConcurrentRunError, match="on another thread"):
        flow.kickoff({"text": "stamp"})
    run = kick_off(flow, "B")
    assert answers(run) == ["<B>"]
    assert service("plain") == "<plain>"
    assert asked(server) == ["B", "plain"]


@pytest.mark.parametrize("name", ["queue", "ThreadPool.apply"])
def test_a_run_that_was_cancelled_does_not_end_the_worker(
    name: str, serve: Serve, made: Make
) -> None:
    cancelled = unique("cancelled")

    def script(request: Request) -> Any:
        if request.last_user_text == "one":
            DBOS.cancel_workflow(cancelled)
        return echo(request)

    server, service = serve(script), made(SERVICES[name])

    class Two(Flow[Question]):
        @start()
        def ask(self) -> str:
            return str(service("one") + service("two"))

    with SetWorkflowID(cancelled), pytest.raises(Exception, match="cancelled"):
        DBOSFlow(flow_name=unique("two"), orig_flow=Two).kickoff()
    status = DBOS.get_workflow_status(cancelled)
    assert status is not None
    assert status.status == "CANCELLED"
    run = kick_off(asking(service), "B")
    assert answers(run) == ["<B>"]
    assert asked(server) == ["one", "B"]
