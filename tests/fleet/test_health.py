"""What a worker tells those who watch it: probes, its status, its metrics."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest
from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow, listen, start
from crewai.tools import tool
from dbos import DBOS, DBOSClient, SetWorkflowID
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client.parser import text_string_to_metric_families

import crewai_dbos
from crewai_dbos import DBOSCrew, DBOSFlow, Worker, step
from crewai_dbos._dbos_seam.database import launched_database
from crewai_dbos._dbos_seam.instance import is_shut_down
from crewai_dbos._fleet import membership
from crewai_dbos._health import server
from crewai_dbos._health.census import census
from crewai_dbos._health.server import AT_ONCE, HealthServer, Page
from crewai_dbos._health.shared import Shared
from crewai_dbos._runs import counting
from crewai_dbos.control import Control, Reply
from crewai_dbos.errors import DefinitionError
from crewai_dbos.testing import Request, ToolCall, text, tool_calls
from people.conftest import until
from support.databases import sqlite_here
from support.launching import QUICK
from support.names import unique
from support.postgres import Postgres
from support.serving import Serve, serving

QUEUE = "health"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    yield from serving(monkeypatch, lambda _: text("done"))


class Held:
    """A step that does not end before it may."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.may_end.wait(60)
        return "held"

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.may_end.set()


@contextmanager
def working(url: str, **options: Any) -> Iterator[Worker]:
    config: Any = {**QUICK, "system_database_url": url, "log_level": "CRITICAL"}
    dbos = DBOS(config=config)
    dbos._registry.get_internal_queue()._polling_interval_sec = 0.1
    with Worker(**{"health_port": 0, "health_host": "127.0.0.1", "grace": 0, **options}) as worker:
        yield worker


def get(worker: Worker, path: str, method: str = "GET") -> tuple[int, str]:
    url = f"http://127.0.0.1:{worker.health_port}{path}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=20) as said:
            return said.status, said.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def measured(worker: Worker) -> dict[tuple[str, ...], float]:
    """By name and the values of labels, in the order of their names."""
    status, content = get(worker, "/metrics")
    assert status == 200
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(content)
        for sample in family.samples
    }


def held_flow(held: Held) -> DBOSFlow:
    class Waits(Flow[dict[str, Any]]):
        @start()
        def wait(self) -> str:
            return step(held)

    return DBOSFlow(flow_name=unique("waits"), orig_flow=Waits)


@contextmanager
def closing_client(url: str) -> Iterator[DBOSClient]:
    client = DBOSClient(system_database_url=url)
    try:
        yield client
    finally:
        client.destroy()


def terminate(before: Any) -> None:
    """Have this process told to stop, as soon as SIGTERM is heeded otherwise than `before`."""
    until(lambda: signal.getsignal(signal.SIGTERM) != before)
    os.kill(os.getpid(), signal.SIGTERM)


@sqlite_here("database_url")
def test_a_worker_tells_that_it_lives_is_ready_and_what_it_works_on(database_url: str) -> None:
    held = Held()
    flow = held_flow(held)
    with working(database_url, grace=60) as worker, held:
        with SetWorkflowID("at-work"):
            flow.start(inputs={"secret": "otters"})
        assert held.begun.wait(30)
        assert get(worker, "/live") == (200, "live\n")
        assert get(worker, "/ready") == (200, "ready\n")
        assert get(worker, "/ready", "HEAD") == (200, "")
        assert get(worker, "/live", "POST")[0] == 405
        assert get(worker, "/nowhere") == (
            404,
            "Not here. There are /, /status, /live, /ready, /metrics.\n",
        )
        said = get(worker, "/status")[1]
        assert said == get(worker, "/")[1] or "unbeaten_for" in said
        status = json.loads(said)
        (at_work,) = status["runs"]
        assert at_work.pop("since").endswith("+00:00")
        assert at_work == {"run_id": "at-work", "kind": "flow", "definition": flow.flow_name}
        assert status["executor_id"] == worker.executor_id
        assert flow.flow_name in status["definitions"]["flow"]
        assert status["lease"]["seconds"] == 30
        assert "otters" not in said
        assert database_url not in said

        before = signal.getsignal(signal.SIGTERM)
        threading.Thread(target=terminate, args=(before,)).start()
        worker.run()
        assert get(worker, "/ready") == (503, "not ready: it stops\n")
        with ThreadPoolExecutor(1) as pool:
            during_grace = pool.submit(told_while_it_ends, worker, held)
            worker.__exit__(None, None, None)
            live, status = during_grace.result()
        assert live == (200, "live\n")
        assert status["stopping"] is True
        assert [each["run_id"] for each in status["runs"]] == ["at-work"]
        with closing_client(database_url) as client:
            assert client.retrieve_workflow("at-work").get_status().status == "SUCCESS"
        with pytest.raises(urllib.error.URLError):
            get(worker, "/live")


def told_while_it_ends(worker: Worker, held: Held) -> tuple[tuple[int, str], dict[str, Any]]:
    try:
        until(is_shut_down)
        return get(worker, "/live"), json.loads(get(worker, "/status")[1])
    finally:
        held.may_end.set()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_dbos_is_destroyed_in_the_block(database_url: str) -> None:
    with working(database_url, lease=1) as worker:
        DBOS.destroy()
        assert get(worker, "/live") == (200, "live\n")
        assert get(worker, "/ready") == (503, "not ready: DBOS is not launched\n")
        assert json.loads(get(worker, "/status")[1])["runs"] == []


@sqlite_here("database_url")
def test_a_port_that_is_taken_is_told_of_before_any_run_is_taken(database_url: str) -> None:
    held = Held()
    held.may_end.set()
    flow = held_flow(held)
    with working(database_url, health_port=None) as worker:
        assert worker.health_port is None
        DBOS.register_queue(QUEUE, worker_concurrency=0)
        with SetWorkflowID("waits"):
            flow.start(queue=QUEUE)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        told = rf"127\.0\.0\.1:{port} \(Address already in use\)\. Give another health_port"
        with pytest.raises(DefinitionError, match=told), working(database_url, health_port=port):
            pass
    assert not held.begun.is_set()
    for wrong in (-1, 65536, "8080", True):
        with pytest.raises(DefinitionError, match="give a port"):
            Worker(health_port=wrong)  # type: ignore[arg-type]
    config: Any = {**QUICK, "system_database_url": database_url}
    DBOS(config=config)
    with pytest.raises(DefinitionError, match=r"at nowhere\.invalid:0"):
        Worker(health_port=0, health_host="nowhere.invalid").__enter__()


def searching(request: Request) -> Any:
    if not request.tool_results:
        return tool_calls(ToolCall("search", {"what": "otters"}))
    return text("They swim.")


def searching_crew() -> DBOSCrew:
    @tool("search")
    def search(what: str) -> str:
        """Search."""
        raise LookupError("nothing there")

    def build() -> Crew:
        clerk = Agent(
            role="Clerk", goal="Find", backstory="Old.", llm="gpt-4o-mini", tools=[search]
        )
        task = Task(description="Find {what}.", expected_output="Facts.", agent=clerk)
        return Crew(agents=[clerk], tasks=[task])

    return DBOSCrew(crew_name=unique("found"), orig_crew=build)


@sqlite_here("database_url")
def test_metrics_of_what_it_has_done(database_url: str, serve: Serve) -> None:
    serve(searching)
    crew = searching_crew()
    with working(database_url) as worker:
        begun = measured(worker)
        for outcome in counting.OUTCOMES:
            assert begun["crewai_dbos_executions_total", crew.crew_name, "crew", outcome] == 0
        assert begun["crewai_dbos_calls_total", "tool", "failed"] == 0
        assert begun["crewai_dbos_calls_replayed_total", "llm"] == 0
        with SetWorkflowID("a-run-of-its-own"):
            run = crew.start({"what": "otters"})
        assert run.get_result().raw == "They swim."
        found = measured(worker)
        assert found["crewai_dbos_calls_total", "llm", "done"] == 2
        assert found["crewai_dbos_calls_total", "tool", "failed"] == 1
        assert found["crewai_dbos_tokens_total", "gpt-4o-mini", "output"] > 0
        assert found["crewai_dbos_tokens_total", "gpt-4o-mini", "input"] > 0
        assert found["crewai_dbos_executions_total", crew.crew_name, "crew", "done"] == 1
        assert found["crewai_dbos_takeovers_total", "lease_expired"] == 0
        assert found["crewai_dbos_takeovers_total", "handed_over"] == 0
        assert found["crewai_dbos_lease_unbeaten_seconds",] < 30
        assert found["process_resident_memory_bytes",] > 1e6
        assert found["crewai_dbos_calls_replayed_total", "llm"] == 0

        last = max(each["function_id"] for each in DBOS.list_workflow_steps(run.workflow_id))
        DBOS.fork_workflow(run.workflow_id, last + 1).get_result()
        again = measured(worker)
        assert again["crewai_dbos_calls_replayed_total", "llm"] == 2
        assert again["crewai_dbos_calls_total", "llm", "done"] == 2
        assert again["crewai_dbos_executions_total", crew.crew_name, "crew", "done"] == 2
        assert "a-run-of-its-own" not in get(worker, "/metrics")[1]


@DBOS.workflow()
def users_own(flow_name: str) -> str:
    return str(_JOINED[flow_name].kickoff())


_JOINED: dict[str, DBOSFlow] = {}


def flow_of(function: Any) -> DBOSFlow:
    class One(Flow[dict[str, Any]]):
        @start()
        def do(self) -> Any:
            return function()

    return DBOSFlow(flow_name=unique("one"), orig_flow=One)


_ONE_MORE: list[str] = []


def steps_made() -> str:
    for other in _ONE_MORE:
        step(len, other)
    return step(str, 1)


@sqlite_here("database_url")
def test_how_executions_end(database_url: str) -> None:
    def fails() -> None:
        raise LookupError("nothing there")

    held, joined = Held(), Held()
    waits, fine, failing = held_flow(held), flow_of(steps_made), flow_of(fails)
    asks = flow_of(lambda: crewai_dbos.ask("May I?"))
    inside = _JOINED["inside"] = held_flow(joined)
    with working(database_url) as worker, held, joined, Control(database_url) as control:
        assert fine.start().get_result() == "1"
        assert asyncio.run(fine.kickoff_async()) == "1"
        with pytest.raises(LookupError):
            failing.kickoff()

        asking = asks.start()
        until(lambda: control.requests())
        until(lambda: measured(worker).get(ended(asks, "parked")) == 1)
        (request,) = control.requests()
        control.answer(request.request_id, Reply("yes"), by="ann")
        assert asking.get_result() == "yes"

        cancelled = waits.start()
        assert held.begun.wait(30)
        control.cancel(cancelled.workflow_id, by="ann")
        held.may_end.set()
        until(lambda: measured(worker).get(ended(waits, "cancelled")) == 1)

        begun = fine.start()
        begun.get_result()
        _ONE_MORE.append("once more")
        ids = {
            s["function_name"]: s["function_id"]
            for s in DBOS.list_workflow_steps(begun.workflow_id)
        }
        (recorded,) = [number for name, number in ids.items() if "/step:str" in name]
        drifted = DBOS.fork_workflow(begun.workflow_id, recorded + 1).workflow_id
        until(lambda: measured(worker).get(ended(fine, "stopped")) == 1)
        assert control.run(drifted).state == "stopped"
        _ONE_MORE.clear()

        before = measured(worker)
        with SetWorkflowID("users-own"):
            run = DBOS.start_workflow(users_own, "inside")
        assert joined.begun.wait(30)
        status = json.loads(get(worker, "/status")[1])
        assert {"run_id": "users-own", "kind": "workflow"} in status["runs"]
        joined.may_end.set()
        assert run.get_result() == "held"
        found = measured(worker)
    assert found[ended(fine, "done")] == 3
    assert found[ended(failing, "failed")] == 1
    assert found[ended(asks, "done")] == 1
    assert found[ended(inside, "done")] == 0, "it is no run of its own"
    calls = ("crewai_dbos_calls_total", "step", "done")
    assert found[calls] == before[calls] + 1


def ended(flow: DBOSFlow, outcome: str) -> tuple[str, ...]:
    return ("crewai_dbos_executions_total", flow.flow_name, "flow", outcome)


def test_what_is_in_the_database_stands_as_control_says(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held()
    busy = held_flow(held)

    class Asks(Flow[dict[str, Any]]):
        @start()
        def ask(self) -> str:
            return crewai_dbos.ask("May I?")

        @listen(ask)
        def end(self, said: str) -> str:
            return said

    asks = DBOSFlow(flow_name=unique("asks"), orig_flow=Asks)
    with working(database_url) as worker, held, Control(database_url) as control:
        DBOS.register_queue(QUEUE, global_concurrency=1)
        asks.start()
        busy.start(queue=QUEUE)
        assert held.begun.wait(30)
        for _ in range(2):
            busy.start(queue=QUEUE)
        busy.start(queue=QUEUE)
        until(lambda: [run.state for run in control.runs(definition=asks.flow_name)] == ["waiting"])
        (last, *_) = control.runs(definition=busy.flow_name)
        database = launched_database()
        with database.writing() as connection:
            table = database.runs
            of_last = table.c.workflow_uuid == last.run_id
            connection.execute(table.update().where(of_last).values(application_version="old"))
        found = measured(worker)
        states = Counter(
            ("crewai_dbos_runs", run.definition, run.kind, run.state) for run in control.runs()
        )
        assert {
            key: count for key, count in found.items() if key[0] == "crewai_dbos_runs"
        } == states
        assert states["crewai_dbos_runs", busy.flow_name, "flow", "queued"] == 2
        assert states["crewai_dbos_runs", busy.flow_name, "flow", "stranded"] == 1
        assert found["crewai_dbos_queue_depth", QUEUE] == 3
        assert 0 <= found["crewai_dbos_queue_oldest_seconds", QUEUE] < 60
        assert found["crewai_dbos_requests_open",] == 1
        assert found["crewai_dbos_at_work", busy.flow_name, "flow"] == 1
        assert census(database, "another").runs == {}

        asked = []
        monkeypatch.setattr("crewai_dbos._health.watch.census", lambda *_: asked.append(1))
        measured(worker)
        assert asked == [], "an answer is kept for some seconds"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_is_no_more_is_zero(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shared.__init__, "__kwdefaults__", {**_KEPT, "kept": 0.0})
    held = Held()
    flow = held_flow(held)
    running = ("crewai_dbos_runs", flow.flow_name, "flow", "running")
    at_work = ("crewai_dbos_at_work", flow.flow_name, "flow")
    with working(database_url) as worker, held:
        run = flow.start()
        assert held.begun.wait(30)
        found = measured(worker)
        assert (found[running], found[at_work]) == (1, 1)
        held.may_end.set()
        run.get_result()
        found = measured(worker)
        assert (found[running], found[at_work]) == (0, 0)


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_database_that_is_away(
    database_url: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shared.__init__, "__kwdefaults__", {**_KEPT, "kept": 0.0})
    with working(database_url, lease=1) as worker:
        assert ("crewai_dbos_requests_open",) in measured(worker)
        postgres.stop()
        try:
            until(lambda: get(worker, "/ready")[0] == 503)
            assert "the database has taken no beat for" in get(worker, "/ready")[1]
            assert get(worker, "/live")[0] == 200
            found = measured(worker)
            assert ("crewai_dbos_requests_open",) not in found
            assert ("crewai_dbos_takeovers_total", "lease_expired") in found
        finally:
            postgres.start()
        until(lambda: get(worker, "/ready")[0] == 200)
        assert ("crewai_dbos_requests_open",) in measured(worker)
        with psycopg.connect(database_url) as connection:
            connection.execute("LOCK TABLE dbos.workflow_status IN ACCESS EXCLUSIVE MODE")
            assert ("crewai_dbos_requests_open",) not in measured(worker), "it is not waited for"
            assert ("crewai_dbos_takeovers_total", "lease_expired") in measured(worker)
            assert get(worker, "/ready")[0] == 200
            connection.rollback()


_KEPT = Shared.__init__.__kwdefaults__


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_beat_that_stands_still(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    with working(database_url, lease=1) as worker:
        assert get(worker, "/live")[0] == 200
        monkeypatch.setattr(membership, "within", lambda *_: goes_on.wait(60))
        until(lambda: get(worker, "/live")[0] == 503)
        assert "the thread that beats the lease stands still" in get(worker, "/live")[1]
        monkeypatch.undo()
        goes_on.set()
        until(lambda: get(worker, "/live")[0] == 200)


def test_connections_that_say_nothing_keep_nobody_out() -> None:
    found = HealthServer("127.0.0.1", 0, {"/": lambda _: Page(b"here\n")})
    idle = [socket.create_connection(("127.0.0.1", found.port)) for _ in range(3 * AT_ONCE)]
    try:
        for _ in range(3):
            with urllib.request.urlopen(f"http://127.0.0.1:{found.port}/", timeout=9) as said:
                assert said.read() == b"here\n"
        threads = [each for each in threading.enumerate() if each.name == "crewai-dbos-health"]
        assert len(threads) <= AT_ONCE + 1
    finally:
        for each in idle:
            each.close()
        found.close()


def test_a_connection_lasts_for_a_short_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SECONDS", 0.2)
    found = HealthServer("127.0.0.1", 0, {"/": lambda _: Page(b"here\n")})
    try:
        with socket.create_connection(("127.0.0.1", found.port), timeout=4) as slow:
            slow.sendall(b"GET / HTTP/1.0\r\nA: b\r\n")  # and no end
            assert slow.recv(100) == b""
    finally:
        found.close()


def test_a_page_that_can_not_be_made() -> None:
    def fails(_: str) -> Page:
        raise LookupError("no secrets")

    found = HealthServer("127.0.0.1", 0, {"/": fails})
    try:
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(f"http://127.0.0.1:{found.port}/", timeout=9)
        assert (raised.value.code, raised.value.read()) == (500, b"LookupError\n")
    finally:
        found.close()


def test_a_function_that_hangs_is_called_once_for_all(caplog: pytest.LogCaptureFixture) -> None:
    goes_on, calls = threading.Event(), []

    def hangs() -> str:
        calls.append(1)
        goes_on.wait(60)
        return "answer"

    shared = Shared(hangs, "ask", bound=0.05)
    assert [shared.value() for _ in range(5)] == [None] * 5
    assert len(calls) == 1
    goes_on.set()
    until(lambda: shared.value() == "answer")
    assert len(calls) == 1

    def fails() -> str:
        raise OSError("gone")

    failing = Shared(fails, "count the runs", kept=0.0)
    with caplog.at_level(logging.WARNING):
        assert [failing.value(), failing.value()] == [None, None]
    assert caplog.messages == ["Can't count the runs (OSError); tried again."]


def test_more_models_than_are_told_apart() -> None:
    counts = counting.Counts()
    for number in range(counting.MOST_MODELS + 5):
        usage = [{"prompt_tokens": 1, "completion_tokens": 1}]
        counts._count_tokens({"kind": "llm", "model": f"m{number}", "extra": {"usage": usage}})
    models = {model for model, _ in counts.tokens()}
    assert len(models) == counting.MOST_MODELS + 1
    assert counts.tokens()[counting.OTHER, "input"] == 5


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> InMemoryMetricReader:
    """What reads the user's provider; a process has one provider for good."""
    monkeypatch.delenv("OTEL_SDK_DISABLED", raising=False)
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", provider)
    return reader


def read(reader: InMemoryMetricReader) -> dict[tuple[str, ...], float]:
    data = reader.get_metrics_data()
    return {
        (metric.name, *(str(value) for _, value in sorted(point.attributes.items()))): point.value
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_same_in_opentelemetry(
    database_url: str, serve: Serve, reader: InMemoryMetricReader, caplog: pytest.LogCaptureFixture
) -> None:
    serve(searching)
    crew = searching_crew()
    for times in (1, 2):  # as a second worker of the process, too
        with working(database_url, health_port=None):
            crew.start({"what": "otters"}).get_result()
            found = read(reader)
            assert found["crewai_dbos.calls", "llm", "done"] == 2
            assert found["crewai_dbos.executions", crew.crew_name, "crew", "done"] == 1
            assert found["crewai_dbos.requests.open",] == 0
            assert found["crewai_dbos.takeovers", "lease_expired"] == 0, times
            assert found["crewai_dbos.executions", crew.crew_name, "crew", "failed"] == 0
    assert "crewai_dbos.takeovers" not in {name for name, *_ in read(reader)}
    assert not [each for each in caplog.records if "opentelemetry" in each.name]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_nothing_is_counted_when_nobody_watches(database_url: str, serve: Serve) -> None:
    serve(searching)
    crew = searching_crew()
    with working(database_url, health_port=None):
        crew.start({"what": "otters"}).get_result()
        assert counting._counts is None
    with working(database_url):
        assert counting._counts is not None
    assert counting._counts is None


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_metrics_without_the_library(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "prometheus_client", None)
    with working(database_url) as worker:
        status, said = get(worker, "/metrics")
        assert (status, "pip install 'crewai-dbos[metrics]'" in said) == (501, True)
        assert get(worker, "/ready")[0] == 200
