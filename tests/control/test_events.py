"""What readers see of a run: each event once, in order, from any process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from crewai import LLM, Agent, Crew, Task
from crewai.flow.flow import Flow, listen, start
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID
from typer.testing import CliRunner

from crewai_dbos import DBOSAgent, DBOSCrew, DBOSFlow, People, ask
from crewai_dbos._events import reading
from crewai_dbos._events.event import Fact, Key
from crewai_dbos._events.reading import at_work
from crewai_dbos._events.store import Store
from crewai_dbos.cli import app
from crewai_dbos.control import Approve, Control, Event
from crewai_dbos.control import Reply as Answered
from crewai_dbos.encryption import EncryptedSerializer, generate_key
from crewai_dbos.errors import DefinitionError, RunNotFoundError
from crewai_dbos.testing import Reply, Request, ToolCall, text, tool_calls
from people.conftest import until
from support.databases import both_here, some_here
from support.launching import launched
from support.names import unique
from support.python import Program
from support.serving import Serve, serving

BOTH = both_here("url")


def searching(request: Request) -> Reply:
    if not request.tool_results:
        return tool_calls(ToolCall("search", {"what": "otters"}))
    return text("They swim.")


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    yield from serving(monkeypatch, searching)


class Gate:
    """A tool stands still here until it is let on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def pass_(self) -> None:
        self.reached.set()
        assert self.open.wait(60)


def crew(
    gate: Gate | None = None, error: type[Exception] | None = None, **options: Any
) -> DBOSCrew:
    @tool("search")
    def search(what: str) -> str:
        """Search."""
        if gate is not None:
            gate.pass_()
        if error is not None:
            raise error("no secrets in events")
        return f"{what} are nice"

    def build() -> Crew:
        clerk = Agent(
            role="Clerk", goal="Find", backstory="Old.", llm="gpt-4o-mini", tools=[search]
        )
        find = Task(description="Find {what}.", expected_output="Facts.", agent=clerk, name="find")
        write = Task(description="Write {what}.", expected_output="A text.", agent=clerk)
        return Crew(agents=[clerk], tasks=[find, write])

    return DBOSCrew(crew_name=unique("found"), orig_crew=build, **{"events": True, **options})


def types(events: list[Event]) -> list[str]:
    return [event.type for event in events]


def check_stream(events: list[Event]) -> None:
    """Numbers go up, nothing is there twice, and what has ended had begun."""
    numbers = [event.seq for event in events]
    assert numbers == sorted(set(numbers))
    of_calls = [(event.type, event.path) for event in events if event.type != "llm.tokens"]
    assert not [key for key, times in Counter(of_calls).items() if times > 1 and key[1]]
    begun = set()
    for event in events:
        if event.type.endswith((".started", ".opened")):
            begun.add(event.path)
        elif event.path:
            assert event.path in begun, event


OF_THE_CREW = [
    "run.started",
    "crew.started",
    *["task.started", "agent.started"],
    *["llm.started", "llm.ended", "tool.started", "tool.ended", "llm.started", "llm.ended"],
    *["agent.ended", "task.ended"],
    *["task.started", "agent.started"],
    *["llm.started", "llm.ended", "tool.started", "tool.ended", "llm.started", "llm.ended"],
    *["agent.ended", "task.ended"],
    "crew.ended",
    "run.ended",
]


@pytest.mark.parametrize(
    ("asynchronous", "url"),
    some_here(
        product([False, True], ["sqlite", "postgres"]), [(False, "postgres"), (True, "sqlite")]
    ),
    indirect=["url"],
)
def test_a_crew(serve: Serve, control: Control, asynchronous: bool) -> None:
    serve()
    durable, run_id = crew(), unique("run")
    with SetWorkflowID(run_id):
        if asynchronous:
            asyncio.run(durable.akickoff({"what": "otters"}))
        else:
            durable.kickoff({"what": "otters"})
    # The end of a run is not seen before its events are.
    events = list(control.events(run_id))
    assert types(events) == OF_THE_CREW
    check_stream(events)
    assert {event.run_id for event in events} == {run_id}
    by_type = {event.type: event for event in events}
    assert by_type["llm.started"].data == {"model": "gpt-4o-mini"}
    assert by_type["llm.ended"].data["status"] == "done"
    assert by_type["llm.ended"].data["tokens"]["requests"] == 1
    assert by_type["llm.ended"].data["seconds"] > 0
    assert by_type["run.started"].data["kind"] == "crew"
    assert by_type["run.ended"].data == {"status": "done"}
    names = {step["function_name"] for step in DBOS.list_workflow_steps(run_id)}
    calls = {event.path for event in events if event.type in ("llm.ended", "tool.ended")}
    assert calls <= names
    assert json.loads(json.dumps(events[0].as_json()))["seq"] == events[0].seq
    told = json.dumps([event.as_json() for event in events])
    assert "otters" not in told
    assert "swim" not in told


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run that has ended without a last event none is waited for."""
    monkeypatch.setattr(reading, "GRACE", 0.2)


@pytest.mark.usefixtures("impatient")
def test_off_unless_it_is_asked_for(serve: Serve, control: Control) -> None:
    serve()
    run_id = unique("run")
    with SetWorkflowID(run_id):
        crew(events=False).kickoff({"what": "otters"})
    assert list(control.events(run_id, follow=True)) == []


@pytest.mark.parametrize("bad", ["yes", 1, None])
def test_what_events_can_be(bad: Any) -> None:
    with pytest.raises(DefinitionError, match="events is True"):
        crew(events=bad)


def test_tokens_are_not_kept_where_redact_would_have_to_see_whole_texts() -> None:
    with pytest.raises(DefinitionError, match="two pieces"):
        crew(events="tokens", redact=str.upper)


@BOTH
def test_from_a_number(serve: Serve, control: Control) -> None:
    serve()
    run_id = unique("run")
    with SetWorkflowID(run_id):
        crew().kickoff({"what": "otters"})
    events = list(control.events(run_id))
    for after in (0, 1, events[7].seq, events[-1].seq, 10**9):
        expected = [event for event in events if event.seq > after]
        assert list(control.events(run_id, after)) == expected
        assert list(control.events(run_id, after, follow=True)) == expected


def test_of_no_run(control: Control) -> None:
    with pytest.raises(RunNotFoundError):
        control.events("nobody")

    async def read() -> None:
        async for _ in control.aevents("nobody"):
            raise AssertionError

    with pytest.raises(RunNotFoundError):
        asyncio.run(read())


def test_an_agent_and_a_flow(serve: Serve, control: Control) -> None:
    serve(lambda _: text("They swim."))
    clerk = Agent(role="Clerk", goal="Find", backstory="Old.", llm="gpt-4o-mini")
    durable = DBOSAgent(agent_name=unique("clerk"), orig_agent=clerk, events=True)
    run_id = unique("run")
    with SetWorkflowID(run_id):
        durable.kickoff("Otters?")
    assert types(list(control.events(run_id))) == [
        "run.started",
        "agent.started",
        "llm.started",
        "llm.ended",
        "agent.ended",
        "run.ended",
    ]

    class Letters(Flow[Any]):
        @start()
        def write(self) -> str:
            return str(clerk.kickoff("Otters?").raw)

        @listen(write)
        def fail(self) -> None:
            raise ValueError("no secrets in events")

    letters = DBOSFlow(flow_name=unique("letters"), orig_flow=Letters, events=True)
    run_id = unique("run")
    with SetWorkflowID(run_id), pytest.raises(ValueError, match="secrets"):
        letters.kickoff()
    events = list(control.events(run_id))
    check_stream(events)
    assert types(events) == [
        "run.started",
        "flow.started",
        "method.started",
        "agent.started",
        "llm.started",
        "llm.ended",
        "agent.ended",
        "method.ended",
        "method.started",
        "method.ended",
        "flow.ended",
        "run.ended",
    ]
    assert dict(events[-3].data) == {"status": "failed", "error": "ValueError"}
    assert dict(events[-1].data) == {"status": "failed", "error": "ValueError"}
    assert "secrets" not in json.dumps([event.as_json() for event in events])


@pytest.mark.usefixtures("impatient")
def test_work_that_has_joined_a_workflow_is_in_the_stream_of_that(
    serve: Serve, control: Control
) -> None:
    serve()
    loud, quiet = crew(), crew(events=False)

    @DBOS.workflow(name=unique("both"))
    def both() -> None:
        quiet.kickoff({"what": "cats"})
        loud.kickoff({"what": "otters"})

    run_id = unique("run")
    with SetWorkflowID(run_id):
        both()
    events = list(control.events(run_id, follow=True))
    assert types(events) == OF_THE_CREW[1:-1]
    assert all(event.path.startswith(f"crew:{loud.crew_name}#1") for event in events)


def test_a_fork_has_all_that_it_was_given_in_a_stream_of_its_own(
    serve: Serve, control: Control
) -> None:
    serve()
    run_id = unique("run")
    with SetWorkflowID(run_id):
        crew().kickoff({"what": "otters"})
    steps = DBOS.list_workflow_steps(run_id)
    for step in steps[1::4]:
        fork = DBOS.fork_workflow(run_id, step["function_id"])
        fork.get_result()
        events = list(control.events(fork.workflow_id))
        check_stream(events)
        assert Counter((event.type, event.path) for event in events) == Counter(
            (event.type, event.path) for event in control.events(run_id)
        )
        kept = {s["function_name"] for s in steps if s["function_id"] < step["function_id"]}
        for event in events:
            if event.type in ("llm.ended", "tool.ended"):
                assert bool(event.data.get("recorded")) == (event.path in kept)
                assert event.data["status"] == "done"


def test_a_rewound_run_tells_of_what_is_done_anew(serve: Serve, control: Control) -> None:
    asked = []

    def script(request: Request) -> Reply:
        asked.append(request)
        return searching(request)

    server = serve(script)
    durable, run_id = crew(), unique("run")
    with SetWorkflowID(run_id):
        durable.kickoff({"what": "otters"})
    before = len(list(control.events(run_id)))
    last = [s for s in DBOS.list_workflow_steps(run_id) if "llm" in s["function_name"]][-1]
    DBOS.rewind_workflow(run_id, start_step=last["function_id"])
    DBOS.retrieve_workflow(run_id).get_result()
    assert len(server.requests) == 5
    new = types(list(control.events(run_id))[before:])
    assert new == [
        "run.resumed",
        "llm.started",
        "llm.ended",
        "agent.ended",
        "task.ended",
        "crew.ended",
        "run.ended",
    ]


def test_a_tool_that_fails(serve: Serve, control: Control) -> None:
    serve()
    run_id = unique("run")
    with SetWorkflowID(run_id):
        crew(error=LookupError).kickoff({"what": "otters"})
    ended = [event for event in control.events(run_id) if event.type == "tool.ended"]
    assert ended
    assert {event.data["error"] for event in ended} == {"LookupError"}
    assert {event.data["status"] for event in ended} == {"failed"}


@BOTH
def test_two_readers_follow_a_run_while_it_goes_on(
    serve: Serve, control: Control, url: str
) -> None:
    serve()
    gate, run_id = Gate(), unique("run")
    durable = crew(gate)
    with SetWorkflowID(run_id):
        handle = durable.start({"what": "otters"})
    seen: dict[str, list[Event]] = {"sync": [], "async": []}
    in_the_tool = {name: threading.Event() for name in seen}

    def note(name: str, event: Event) -> None:
        seen[name].append(event)
        if event.type == "tool.started":
            in_the_tool[name].set()

    def read() -> None:
        for event in control.events(run_id, follow=True):
            note("sync", event)

    async def aread() -> None:
        with Control(url) as own:
            async for event in own.aevents(run_id, follow=True):
                note("async", event)

    readers = [
        threading.Thread(target=read),
        threading.Thread(target=lambda: asyncio.run(aread())),
    ]
    for reader in readers:
        reader.start()
    assert gate.reached.wait(60)
    for waited in in_the_tool.values():
        assert waited.wait(60)
    for events in seen.values():
        assert types(events) == OF_THE_CREW[:7]
    gate.open.set()
    handle.get_result()
    for reader in readers:
        reader.join(60)
    assert seen["sync"] == seen["async"] == list(control.events(run_id))
    assert types(seen["sync"]) == OF_THE_CREW


@BOTH
def test_the_call_in_flight(serve: Serve, control: Control) -> None:
    serve()
    gate, run_id = Gate(), unique("run")
    with SetWorkflowID(run_id):
        handle = crew(gate).start({"what": "otters"})
    for event in control.events(run_id, follow=True):
        if event.type == "tool.started":
            break
    open_ = at_work(control._events, control._opened, run_id)
    assert types(open_) == ["crew.started", "task.started", "agent.started", "tool.started"]
    gate.open.set()
    handle.get_result()
    assert at_work(control._events, control._opened, run_id) == []


FOLLOWER = """
import sys
from crewai_dbos.control import Control
with Control(sys.argv[1]) as control:
    for event in control.events(sys.argv[2], follow=True):
        print(event.seq, event.type, event.path, flush=True)
"""


@pytest.mark.crash
def test_another_process_follows(serve: Serve, control: Control, url: str, tmp_path: Path) -> None:
    serve()
    gate, run_id = Gate(), unique("run")
    with SetWorkflowID(run_id):
        handle = crew(gate).start({"what": "otters"})
    assert gate.reached.wait(60)
    reader = Program("-c", FOLLOWER, url, run_id, folder=tmp_path)
    reader.says(OF_THE_CREW[6])
    gate.open.set()
    handle.get_result()
    said, errors = reader.communicate(timeout=60)
    assert reader.returncode == 0, errors
    assert [line.split()[1] for line in said.splitlines()] == OF_THE_CREW


def test_a_cancelled_run_goes_on_when_it_is_resumed(serve: Serve, control: Control) -> None:
    serve()
    gate, run_id = Gate(), unique("run")
    with SetWorkflowID(run_id):
        handle = crew(gate).start({"what": "otters"})
    assert gate.reached.wait(60)
    DBOS.cancel_workflow(run_id)
    gate.open.set()
    with pytest.raises(Exception, match="cancelled"):
        handle.get_result()
    # Whoever waits for the run hears of the cancel from its row, perhaps long before its process.
    until(lambda: "run.cancelled" in types(list(control.events(run_id))))
    events = list(control.events(run_id, follow=True))
    assert types(events)[-1] == "run.cancelled"
    assert types(events)[:7] == OF_THE_CREW[:7]
    DBOS.resume_workflow(run_id)
    DBOS.retrieve_workflow(run_id).get_result()
    again = list(control.events(run_id, follow=True))
    assert again[: len(events)] == events
    check_stream(again)
    found = [event for event in again if event.type not in ("run.cancelled", "run.resumed")]
    assert Counter(types(found)) == Counter(OF_THE_CREW)
    assert types(again)[-1] == "run.ended"


def test_a_run_that_waits_for_a_person(serve: Serve, control: Control) -> None:
    serve()
    people = People(approve_tools=["search"], linger=0.0)
    durable, run_id = crew(people=people), unique("run")
    with SetWorkflowID(run_id):
        handle = durable.start({"what": "otters"})
    until(lambda: DBOS.get_workflow_status(run_id).status == "DELAYED")  # type: ignore[union-attr]
    until(lambda: types(list(control.events(run_id)))[-1] == "run.parked")
    events = list(control.events(run_id))
    assert types(events) == [*OF_THE_CREW[:6], "request.opened", "run.parked"]
    (first,) = control.requests(run_id=run_id)
    assert first.path == events[-2].path
    control.answer(first.request_id, Approve(), by="ann")
    (second,) = until(lambda: control.requests(run_id=run_id))
    control.answer(second.request_id, Approve(), by="bob")
    handle.get_result()
    events = list(control.events(run_id))
    check_stream(events)
    answered = [event for event in events if event.type == "request.answered"]
    assert [event.data["by"] for event in answered] == ["ann", "bob"]
    of_the_run = [each for each in types(events) if each.startswith("run.")]
    assert of_the_run[:3] == ["run.started", "run.parked", "run.resumed"]
    assert of_the_run[-1] == "run.ended"
    assert Counter(types(events))["tool.ended"] == 2


@BOTH
@pytest.mark.usefixtures("impatient")
def test_a_run_that_is_cancelled_while_it_waits(serve: Serve, control: Control) -> None:
    serve()
    people = People(approve_tools=["search"], linger=0.0)
    durable, run_id = crew(people=people), unique("run")
    with SetWorkflowID(run_id):
        durable.start({"what": "otters"})
    until(lambda: types(list(control.events(run_id)))[-1:] == ["run.parked"])
    DBOS.cancel_workflow(run_id)
    assert types(list(control.events(run_id, follow=True)))[-1] == "run.parked"
    for _ in range(2):  # as whoever has cancelled it does
        control._events.say(run_id, "run.cancelled", {"by": "ann"}, at_ms=1)
    events = list(control.events(run_id, follow=True))
    assert types(events)[-2:] == ["run.parked", "run.cancelled"]
    assert events[-1].data == {"by": "ann"}


def test_who_follows_sees_an_end_that_is_written_when_the_events_have_just_been_read(
    serve: Serve, control: Control
) -> None:
    """As that of a cancelled run: its row says so first, and its process when it hears of it."""

    class Reader(Store):
        def read(self, run_id: str, after: int, limit: int) -> Any:
            found = super().read(run_id, after, limit)
            self.say(run_id, "run.cancelled", {}, at_ms=1)
            return found

    serve()
    run_id = unique("run")
    with SetWorkflowID(run_id):
        crew(events=False).kickoff({"what": "otters"})
    store = Reader(control._database)
    store.add([Fact(run_id, Key("run.started", ""), 1)])
    events = list(reading.events(store, str, run_id, follow=True))
    assert types(events) == ["run.started", "run.cancelled"]


def test_nothing_is_said_of_a_run_that_leaves_no_events(control: Control, serve: Serve) -> None:
    serve()
    run_id = unique("run")
    with SetWorkflowID(run_id):
        crew(events=False).kickoff({"what": "otters"})
    control._events.say(run_id, "run.cancelled", {}, at_ms=1)
    assert list(control.events(run_id)) == []


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_run_that_its_own_code_ends_is_stopped(
    serve: Serve, control: Control, asynchronous: bool
) -> None:
    serve()
    durable, run_id = crew(error=SystemExit), unique("run")  # type: ignore[arg-type]

    async def start_async() -> None:
        await durable.akickoff({"what": "otters"})

    def work() -> None:
        with contextlib.suppress(SystemExit), SetWorkflowID(run_id):
            if asynchronous:
                asyncio.run(start_async())
            else:
                durable.kickoff({"what": "otters"})

    thread = threading.Thread(target=work)  # of the main thread it would be the end of a process
    thread.start()
    thread.join(60)
    events = list(control.events(run_id, follow=True))
    assert types(events)[-1] == "run.stopped", DBOS.get_workflow_status(run_id)
    assert events[-1].data["error"] == "SystemExit"


def test_each_item_of_a_batch_has_a_stream(serve: Serve, control: Control) -> None:
    serve()
    run_id = unique("run")
    with SetWorkflowID(run_id):
        crew().kickoff_for_each([{"what": "otters"}, {"what": "cats"}])
    for number in (1, 2):
        assert types(list(control.events(f"{run_id}/{number}"))) == OF_THE_CREW


def test_a_run_goes_on_without_events_that_can_not_be_written(
    serve: Serve, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    if not url.startswith("sqlite"):
        return
    serve()
    run_id = unique("run")
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "CREATE TRIGGER refuse BEFORE INSERT ON crewai_dbos_events "
                "BEGIN SELECT RAISE(ABORT, 'no room'); END"
            )
        )
    try:
        with SetWorkflowID(run_id):
            assert crew().kickoff({"what": "otters"}).raw == "They swim."
    finally:
        with engine.begin() as connection:
            connection.execute(sa.text("DROP TRIGGER refuse"))
        engine.dispose()
    assert "Events of runs are left out: they can't be written (IntegrityError)" in caplog.text


def streamed(events: list[Event]) -> dict[str, str]:
    found: dict[str, str] = {}
    for event in events:
        if event.type == "llm.tokens":
            found[event.path] = found.get(event.path, "") + str(event.data["text"])
    return found


def streaming_agent(**options: Any) -> DBOSAgent:
    llm = LLM(model="gpt-4o-mini", stream=True)
    clerk = Agent(role="Clerk", goal="Find", backstory="Old.", llm=llm)
    return DBOSAgent(
        agent_name=unique("clerk"), orig_agent=clerk, **{"events": "tokens", **options}
    )


ANSWER = "Otters swim, and eat clams. " * 20


def test_the_tokens_of_a_streamed_answer(serve: Serve, control: Control) -> None:
    serve(lambda _: text(ANSWER))
    run_id = unique("run")
    with SetWorkflowID(run_id):
        streaming_agent().kickoff("Otters?")
    events = list(control.events(run_id))
    assert list(streamed(events).values()) == [ANSWER]
    check_stream(events)
    inside = [event.type for event in events if event.path == "llm#1" or "/llm#1" in event.path]
    assert inside[0] == "llm.started"
    assert inside[-1] == "llm.ended"
    assert {event.data["attempt"] for event in events if event.type == "llm.tokens"} == {1}


def test_tokens_only_if_they_are_asked_for(serve: Serve, control: Control) -> None:
    serve(lambda _: text(ANSWER))
    run_id = unique("run")
    with SetWorkflowID(run_id):
        streaming_agent(events=True).kickoff("Otters?")
    assert "llm.tokens" not in types(list(control.events(run_id)))


def test_on_the_command_line(serve: Serve, url: str) -> None:
    serve()
    run_id = unique("run")
    with SetWorkflowID(run_id):
        crew().kickoff({"what": "otters"})

    def run(*arguments: str, COLUMNS: str | None = None) -> Any:
        told = ["runs", "events", *arguments, "--db-url", url]
        return CliRunner().invoke(app, told, env={"COLUMNS": COLUMNS})

    shown = run(run_id, COLUMNS="80")
    assert shown.exit_code == 0, shown.output
    assert len(shown.stdout.splitlines()) == len(OF_THE_CREW)
    assert all(len(line) <= 80 for line in shown.stdout.splitlines())
    assert "task.started" in shown.stdout
    assert "…" not in run(run_id).stdout, "no terminal, no width"
    as_json = run(run_id, "--json", "--follow", "--after", "2")
    found = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert [each["type"] for each in found] == OF_THE_CREW[2:]
    assert set(found[0]) == {"seq", "run_id", "type", "path", "at", "data"}
    assert run("nobody").exit_code == 1


def test_a_name_on_the_command_line_moves_no_cursor(url: str, control: Control) -> None:
    flow, run_id = DBOSFlow(flow_name=unique("flow"), orig_flow=Waits, events=True), unique("run")
    with SetWorkflowID(run_id):
        run = flow.start()
    (request,) = until(lambda: control.requests(run_id=run_id))
    control.answer(request.request_id, Answered("blue"), by="ann\x1b[2J\nforged line")
    assert run.get_result() == "blue"
    told = CliRunner().invoke(app, ["runs", "events", run_id, "--db-url", url]).stdout
    assert "by=ann" in told
    assert "\x1b" not in told
    assert not any(line.startswith("forged") for line in told.splitlines())


class Waits(Flow[dict[str, Any]]):
    @start()
    def only(self) -> str:
        return str(ask("Which?"))


KEY = generate_key()


class TestEncrypted:
    @pytest.fixture(scope="class", autouse=True)
    def url(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        """An application whose content is encrypted."""
        DBOS.destroy()
        url = f"sqlite:///{tmp_path_factory.mktemp('sealed')}/dbos.sqlite"
        with launched(url, serializer=self.serializer()):
            yield url

    @staticmethod
    def serializer() -> EncryptedSerializer:
        return EncryptedSerializer({"first": KEY})

    def test_names_are_in_the_clear_and_tokens_are_not(self, serve: Serve, url: str) -> None:
        serve(lambda _: text(ANSWER))
        run_id = unique("run")
        with SetWorkflowID(run_id):
            streaming_agent().kickoff("Otters?")
        with Control(url, serializer=self.serializer()) as reader:
            assert list(streamed(list(reader.events(run_id))).values()) == [ANSWER]
        other = EncryptedSerializer({"other": generate_key()})
        with Control(url, serializer=other) as stranger:
            events = list(stranger.events(run_id))
        assert {"llm.started", "llm.tokens", "llm.ended"} <= set(types(events))
        pieces = [event.data for event in events if event.type == "llm.tokens"]
        assert all(piece["sealed"] and "text" not in piece for piece in pieces)
        raw = Path(url.removeprefix("sqlite:///")).read_bytes()
        assert b"clams" not in raw
