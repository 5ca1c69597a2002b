"""The commands that a `DriftError` ends with: each is given as it stands, and lets the run end."""

from __future__ import annotations

import asyncio
import re
import shlex
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import product
from typing import Any

import pytest
import sqlalchemy as sa
from crewai import Crew, Process, Task
from crewai.flow.conversational import ConversationConfig
from crewai.flow.flow import Flow, listen, router, start
from crewai.tasks.conditional_task import ConditionalTask
from dbos import DBOS
from dbos._schemas.system_database import SystemSchema
from typer.testing import CliRunner

import crewai_dbos
from crewai_dbos import DBOSCrew, DBOSFlow, DriftError, ForkError
from crewai_dbos._dbos_seam.database import launched_database
from crewai_dbos._flows import turns
from crewai_dbos._journal import endings, notes, run_scope
from crewai_dbos._journal.drift import Onward, drift
from crewai_dbos._journal.joining import joined, unwrapping_signals
from crewai_dbos._journal.scope import Scope
from crewai_dbos._runs import body
from crewai_dbos.cli import app
from crewai_dbos.control import Control
from crewai_dbos.testing import ModelServer
from crews.scenarios import agent, answer, archive, asked, model, search, task
from flows.conversation import Desk, replies
from flows.scenarios import echo, say
from journal.helpers import acall, bare, call, work
from support.databases import some_here
from support.launching import launched
from support.names import unique
from support.runs import afollow, begin, follow_plainly, plans
from support.serving import Serve, serving

NOW, LATER = "now", "later"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    url = f"sqlite:///{tmp_path_factory.mktemp('drift')}/dbos.sqlite"
    with launched(url, application_version=NOW):
        yield url


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, url: str) -> Iterator[Serve]:
    monkeypatch.setenv("DBOS_SYSTEM_DATABASE_URL", url)
    yield from serving(monkeypatch, answer)


class Releases:
    """A crew or a flow of which each release builds something else."""

    def __init__(self, first: Callable[[], Any]) -> None:
        self.build = first

    def crew(self) -> DBOSCrew:
        return DBOSCrew(crew_name=unique("released"), orig_crew=lambda: self.build())

    def flow(self) -> DBOSFlow:
        return DBOSFlow(flow_name=unique("released"), orig_flow=lambda: self.build())


def steps(run_id: str) -> list[tuple[int, str]]:
    return [(s["function_id"], s["function_name"]) for s in DBOS.list_workflow_steps(run_id)]


def first_of(run_id: str, place: str) -> int:
    """The first step of a place."""
    return min(number for number, name in steps(run_id) if place in name)


def drift_of(run_id: str, *, left: int | str | None = None) -> str:
    """What a run says that has ended, and goes on now as if it had come to a step only.

    Args:
        left: The first step that it lacks, or the place of that; by default it has all.
    """
    if isinstance(left, str):
        left = first_of(run_id, left)
    last = max(number for number, _ in steps(run_id))
    DBOS.rewind_workflow(run_id, start_step=last + 1 if left is None else left)
    return stopped(run_id)


def stopped(run_id: str) -> str:
    with suppress(Exception):
        DBOS.retrieve_workflow(run_id).get_result()
    status = DBOS.get_workflow_status(run_id)
    assert status is not None
    assert status.status == "CANCELLED"
    noted = (status.attributes or {})["crewai_dbos"]
    assert noted["error"] == DriftError.__name__
    return str(noted["stopped"])


def command_in(told: str) -> str:
    """The fork that an error ends with."""
    return told[told.rindex("crewai-dbos runs fork ") :]


def forked(told: str) -> str:
    """Give that command. Returns the id of the fork."""
    # crewAI may show there what the fork does already.
    found = re.search(r'"run_id": "([^"]+)"', given(command_in(told), "--json"))
    assert found is not None
    return found[1]


def given(command: str, *more: str) -> str:
    program, *arguments = shlex.split(command)
    assert program == "crewai-dbos"
    called = CliRunner().invoke(app, [*arguments, *more])
    assert called.exit_code == 0, called.output
    return called.stdout


def asked_since(server: ModelServer, before: int) -> list[str]:
    return sorted(asked(request) for request in server.requests[before:])


def crew_of(*texts: str, named: bool = True, tools: Any = (), **options: Any) -> Crew:
    """A crew of a writer with one task for each text, by which it is named."""
    writer = agent("Writer", tools=[*tools])
    tasks = [task(text, writer, name=text.lower() if named else None) for text in texts]
    return Crew(agents=[writer], tasks=tasks, **options)


# Crews --------------------------------------------------------------------------------------


def with_an_agent_more() -> Crew:
    crew = crew_of("One", "Two")
    return Crew(agents=[*crew.agents, agent("Reviewer")], tasks=crew.tasks)


def of_a_manager() -> Crew:
    crew = crew_of("One", "Two")
    return Crew(
        agents=crew.agents, tasks=crew.tasks, process=Process.hierarchical, manager_llm=model()
    )


def unnamed(*texts: str) -> Callable[[], Crew]:
    return lambda: crew_of(*texts, named=False)


CREWS: dict[str, tuple[Callable[[], Crew], Callable[[], Crew], list[str], str, list[str]]] = {
    # by name: before, now, what is recorded of it, the place, and what is asked for then
    "a task more": (
        lambda: crew_of("One", "Two"),
        lambda: crew_of("One", "Two", "Three"),
        ["task:1", "task:2"],
        "end",
        ["Three"],
    ),
    "a task more, and one not begun": (
        lambda: crew_of("One", "Two"),
        lambda: crew_of("One", "Two", "Three"),
        ["task:1"],
        "end",
        ["Three", "Two"],
    ),
    "a task between, not come to yet": (
        lambda: crew_of("One", "Two"),
        lambda: crew_of("One", "Between", "Two"),
        ["task:1"],
        "end",
        ["Between", "Two"],
    ),
    "a task between": (
        lambda: crew_of("One", "Two"),
        lambda: crew_of("One", "Between", "Two"),
        ["task:1", "task:2"],
        "task:2.two#1",
        ["Between", "Two"],
    ),
    "a task between, without names": (
        unnamed("One", "Two"),
        unnamed("One", "Between", "Two"),
        ["task:1", "task:2"],
        "task:2#1",
        ["Between", "Two"],
    ),
    "a task before, without names": (
        unnamed("One", "Two"),
        unnamed("Before", "One"),
        ["task:1"],
        "task:1#1",
        ["Before", "One"],
    ),
    "a task less, without names": (
        unnamed("One", "Two", "Three"),
        unnamed("One", "Another"),
        ["task:1", "task:2"],
        "task:2#1",
        ["Another"],
    ),
    "another name": (
        lambda: crew_of("One", "Two", "Three"),
        lambda: crew_of("One", "Other", "Three"),
        ["task:1", "task:2", "task:3"],
        "task:2.two#1",
        ["Other", "Three"],
    ),
    "a tool more": (
        lambda: crew_of("One", "Two", tools=[search]),
        lambda: crew_of("One", "Two", tools=[archive, search]),
        ["task:1"],
        "end",
        ["Two"],
    ),
    "a tool less": (
        lambda: crew_of("One", "Two", tools=[archive, search]),
        lambda: crew_of("One", "Two", tools=[search]),
        ["task:1"],
        "task:1.one#1",
        ["One", "Two"],
    ),
    "an agent more": (
        lambda: crew_of("One", "Two"),
        with_an_agent_more,
        ["task:1"],
        "end",
        ["Two"],
    ),
    "another process": (
        lambda: crew_of("One", "Two"),
        of_a_manager,
        ["task:1"],
        "crew:",
        ["One", "Two"],
    ),
}


CREWS_HERE = CREWS.keys() - {
    "a task more, and one not begun",
    "a task between, not come to yet",
    "another name",
    "an agent more",
}
"""One for each thing that `unfit` tells apart; that a name is another, the next test shows, too."""


@pytest.mark.parametrize("name", some_here(CREWS, CREWS_HERE))
def test_crews(name: str, serve: Serve) -> None:
    before, now, recorded, place, expected = CREWS[name]
    server, releases = serve(), Releases(before)
    run = releases.crew().start({})
    run.get_result()
    releases.build = now
    requests = len(server.requests)
    left = f"task:{len(recorded) + 1}"
    is_left = any(left in name for _, name in steps(run.workflow_id))
    told = drift_of(run.workflow_id, left=left if is_left else None)
    assert len(server.requests) == requests, "nothing was made before it stopped"
    assert f"crewai-dbos runs resume {run.workflow_id}" in told
    *_, option, at = shlex.split(command_in(told))
    assert option == "--at"
    assert place in at
    fork = forked(told)
    output = DBOS.retrieve_workflow(fork).get_result()
    outputs = [each["fields"]["raw"] for each in output["fields"]["tasks_output"]]
    assert outputs[-1].startswith(f"{'Crew Manager' if place == 'crew:' else 'Writer'} on ")
    assert asked_since(server, requests) == sorted(expected)
    # It is held to what it is made of now, and goes on by itself when its process dies.
    last = max(number for number, _ in steps(fork))
    again = DBOS.fork_workflow(fork, last + 1).get_workflow_id()
    assert DBOS.retrieve_workflow(again).get_result() == output
    assert len(server.requests) == requests + len(expected)


def test_two_tasks_that_do_not_follow_from_each_other(serve: Serve) -> None:
    def build(*texts: str) -> Callable[[], Crew]:
        def built() -> Crew:
            writer = agent("Writer")
            one, two, three = (task(text, writer, name=text.lower()) for text in texts)
            three.context = [two]
            two.context = []
            return Crew(agents=[writer], tasks=[one, two, three])

        return built

    server, releases = serve(), Releases(build("One", "Two", "Three"))
    run = releases.crew().start({})
    run.get_result()
    releases.build = build("Uno", "Two", "Tre")
    requests = len(server.requests)
    told = drift_of(run.workflow_id)
    assert "is now 'uno'" in told
    assert "is now 'tre'" in told
    DBOS.retrieve_workflow(forked(told)).get_result()
    assert asked_since(server, requests) == ["Tre", "Uno"]


def test_what_had_the_output_of_the_crew_is_called_again(serve: Serve) -> None:
    called: list[str] = []

    def note(output: Any) -> Any:
        called.append(output.raw)
        return output

    def build(*texts: str) -> Callable[[], Crew]:
        return lambda: crew_of(*texts, after_kickoff_callbacks=[note])

    server, releases = serve(), Releases(build("One"))
    run = releases.crew().start({})
    run.get_result()
    releases.build = build("One", "Two")
    requests = len(server.requests)
    told = drift_of(run.workflow_id)
    assert "after_kickoff has had its output" in told
    output = DBOS.retrieve_workflow(forked(told)).get_result()
    assert output["fields"]["raw"].startswith("Writer on Two")
    assert asked_since(server, requests) == ["Two"]
    assert [each[:13] for each in called] == ["Writer on One", "Writer on Two"]


def test_a_run_of_which_nothing_is_recorded_begins_with_the_new_code(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server, releases = serve(), Releases(lambda: crew_of("One", "Two"))
    run = releases.crew().start({})
    run.get_result()
    releases.build = of_a_manager
    requests = len(server.requests)
    DBOS.rewind_workflow(run.workflow_id, start_step=first_of(run.workflow_id, "task:1"))
    assert run.get_result().raw.startswith("Crew Manager on Two")
    assert asked_since(server, requests) == ["One", "Two"]
    assert "nothing was recorded of the crew" in caplog.text
    releases.build = lambda: crew_of("One", "Two")
    assert "process was 'hierarchical'" in drift_of(run.workflow_id)


def test_before_the_first_method_of_a_flow(serve: Serve) -> None:
    server, releases = serve(echo), Releases(Short)
    run = releases.flow().start()
    run.get_result()
    releases.build = Renamed
    requests = len(server.requests)
    DBOS.rewind_workflow(run.workflow_id, start_step=first_of(run.workflow_id, "method:"))
    assert run.get_result() == "<last>"
    assert len(server.requests) - requests == 2


# Flows --------------------------------------------------------------------------------------


class Short(Flow):
    @start()
    def begin(self) -> str:
        return say("begin")

    @listen(begin)
    def last(self) -> str:
        return say("last")


class Longer(Flow):
    @start()
    def begin(self) -> str:
        return say("begin")

    @listen(begin)
    def last(self) -> str:
        return say("last")

    @listen(last)
    def more(self) -> str:
        return say("more")


class Between(Flow):
    @start()
    def begin(self) -> str:
        return say("begin")

    @listen(begin)
    def more(self) -> str:
        return say("more")

    @listen(more)
    def last(self) -> str:
        return say("last")


class Renamed(Flow):
    @start()
    def first(self) -> str:
        return say("first")

    @listen(first)
    def last(self) -> str:
        return say("last")


FLOWS: dict[str, tuple[type[Flow], str | None, str, list[str]]] = {
    "a method more": (Longer, None, "end", ["more"]),
    "a method more, and one not begun": (Longer, "method:last", "end", ["last", "more"]),
    "another trigger": (Between, None, "method:last#1", ["last", "more"]),
    "another trigger, not begun": (Between, "method:last", "end", ["last", "more"]),
    "another name": (Renamed, None, "method:begin#1", ["first", "last"]),
}


@pytest.mark.parametrize(
    "name", some_here(FLOWS, FLOWS.keys() - {"a method more, and one not begun"})
)
def test_flows(name: str, serve: Serve) -> None:
    now, left, place, expected = FLOWS[name]
    server, releases = serve(echo), Releases(Short)
    run = releases.flow().start()
    run.get_result()
    releases.build = now
    requests = len(server.requests)
    told = drift_of(run.workflow_id, left=left)
    assert len(server.requests) == requests
    assert place in told
    DBOS.retrieve_workflow(forked(told)).get_result()
    assert asked_since(server, requests) == expected


class Stamped(Flow):
    stamped = False

    @start()
    def begin(self) -> str:
        first = say("Ask")
        if self.stamped:
            crewai_dbos.now()
        return f"{first} {say('Look')}"


class Routed(Flow):
    @start()
    def begin(self) -> str:
        return say("begin")

    @router(begin)
    def check(self) -> str:
        say("check")
        return "well"

    @listen("well")
    def praise(self) -> str:
        return say("praise")

    @listen(begin)
    def last(self) -> str:
        return say("last")


def test_a_router_more_which_the_engine_runs_first(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the fork finds when it comes there has a command of its own."""
    monkeypatch.setattr(turns, "PATIENCE", 0.5)
    server, releases = serve(echo), Releases(Short)
    run = releases.flow().start()
    run.get_result()
    releases.build = Routed
    requests = len(server.requests)
    told = stopped(forked(drift_of(run.workflow_id)))
    assert "method:last#1/outcome#1 is recorded to have ended before" in told
    assert len(server.requests) == requests, "the new method did not begin"
    DBOS.retrieve_workflow(forked(told)).get_result()
    assert asked_since(server, requests) == ["check", "last", "praise"]


CHAT = ConversationConfig(
    llm="openai/gpt-4o-mini",
    default_intents=["order", "converse"],
    intent_llm="openai/gpt-4o-mini",
)


@CHAT
class BiggerDesk(Flow):
    @listen("order")
    def take_order(self) -> str:
        return say(f"Confirm {self.state.last_user_message}")

    @listen("order")
    def thank(self) -> str:
        return say("thank")


@CHAT
class QuietDesk(Flow):
    @listen("order")
    def take_order(self) -> str:
        return say(f"Confirm {self.state.last_user_message}")

    @listen("never")
    def thank(self) -> str:
        return say("thank")


@pytest.mark.parametrize("before", some_here([Desk, QuietDesk], [Desk]))
def test_a_turn_of_a_conversation(before: type[Flow], serve: Serve) -> None:
    """What the next turn begins with is kept anew."""
    server, releases = serve(replies), Releases(before)
    flow = releases.flow()
    flow.handle_turn("I want two chairs", session_id="s")
    run_id = f"{flow.flow_name}/s/1"
    releases.build = BiggerDesk
    requests = len(server.requests)
    told = drift_of(run_id)
    assert command_in(told).endswith("/session#1'")
    DBOS.retrieve_workflow(forked(told)).get_result()
    assert [r.last_user_text for r in server.requests[requests:]] == ["thank"]


# Calls --------------------------------------------------------------------------------------


@contextmanager
def working() -> Iterator[Scope]:
    """Work that joins the workflow, as an agent does."""
    outer = run_scope.enclosing()
    assert outer is not None
    with unwrapping_signals(outer), joined("work") as scope:
        yield scope


def calling(names: str, then: str = "") -> Callable[[], list[Any]]:
    def plan() -> list[Any]:
        with working() as scope:
            got = [call(scope, name) for name in names]
        return [*got, *(bare(name) for name in then)]

    return plan


@pytest.mark.parametrize(
    ("now", "made"),
    [
        ("bcd", "bcd"),
        ("acd", "cd"),
        ("abxcd", "xcd"),
        ("abcx", "x"),
        ("bacd", "bacd"),
        ("abc", ""),
        ("ab", ""),
    ],
)
def test_calls(now: str, made: str, serve: Serve) -> None:
    run = unique("run")
    begin(calling("abcd"), run, follow_plainly).get_result()
    plans[run] = calling(now)
    told = drift_of(run)
    work.done.clear()
    assert [each[0] for each in DBOS.retrieve_workflow(forked(told)).get_result()] == [*now]
    assert work.done == Counter(made)


def test_the_end_of_a_method_that_asks_for_another_call(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, releases = serve(echo), Releases(Stamped)
    run = releases.flow().start()
    run.get_result()
    monkeypatch.setattr(Stamped, "stamped", True)
    requests = len(server.requests)
    told = drift_of(run.workflow_id, left="outcome")
    assert "next comes" in told
    assert DBOS.retrieve_workflow(forked(told)).get_result() == "<Ask> <Look>"
    assert asked_since(server, requests) == ["Look"]


def test_another_operation_of_dbos(serve: Serve) -> None:
    def plan_with(operation: Callable[[], Any]) -> Any:
        def plan() -> Any:
            with working() as scope:
                return [call(scope, "a"), operation() and "", call(scope, "b")]

        return plan

    run = unique("run")
    begin(plan_with(lambda: bare("x")), run, follow_plainly).get_result()
    plans[run] = plan_with(lambda: DBOS.sleep(0.001))
    told = drift_of(run)
    work.done.clear()
    DBOS.retrieve_workflow(forked(told)).get_result()
    assert work.done == {"b": 1}


def test_calls_that_came_beside_each_other(serve: Serve) -> None:
    """Neither depends on the other, and both are gone."""

    def plan_with(names: str) -> Any:
        def plan() -> Any:
            with working() as scope:
                return [call(scope, name, concurrent=True) for name in names]

        return plan

    run = unique("run")
    begin(plan_with("abc"), run, follow_plainly).get_result()
    plans[run] = plan_with("b")
    told = drift_of(run)
    work.done.clear()
    (left,) = DBOS.retrieve_workflow(forked(told)).get_result()
    assert left[0] == "b"
    assert work.done.keys() <= {"b"}


def test_a_call_that_was_cut_short_and_now_is_not(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "PATIENCE", 0.1)
    limits: list[float | None] = [0.05]

    async def slow() -> str:
        await asyncio.sleep(60 if limits[-1] else 0)
        return "at last"

    async def plan() -> list[Any]:
        with working() as scope:
            before, found = call(scope, "before"), "too late"
            with suppress(asyncio.TimeoutError):
                found = await asyncio.wait_for(acall(scope, "slow", slow), limits[-1])
            return [before, found, call(scope, "after")]

    run = unique("run")
    assert begin(plan, run, afollow).get_result()[1] == "too late"
    limits.append(None)
    told = drift_of(run)
    assert "now nobody cuts it short" in told
    work.done.clear()
    assert DBOS.retrieve_workflow(forked(told)).get_result()[1] == "at last"
    assert work.done == {"slow": 1, "after": 1}


def test_steps_of_the_users_workflow(serve: Serve) -> None:
    """Only their numbers tell them apart: DBOS makes the fork."""
    run = unique("run")
    begin(calling("ab", then="z"), run, follow_plainly).get_result()
    plans[run] = calling("ax", then="z")
    told = drift_of(run)
    assert "crewai-dbos runs fork" not in told
    work.done.clear()
    handle = eval(told[told.rindex("DBOS.fork_workflow(") :], {"DBOS": DBOS})
    assert handle.get_result() is not None
    assert work.done["a"] == 0
    assert work.done["x"] == work.done["bare z"] == 1


def test_a_step_of_the_users_workflow_that_comes_later_now(serve: Serve) -> None:
    """Another call comes first in the work, too."""
    run = unique("run")

    def before() -> list[Any]:
        return [bare("z"), *calling("ab")()]

    begin(before, run, follow_plainly).get_result()
    plans[run] = calling("xb", then="z")
    told = drift_of(run)
    work.done.clear()
    handle = eval(told[told.rindex("DBOS.fork_workflow(") :], {"DBOS": DBOS})
    assert len(handle.get_result()) == 3
    assert work.done == {"x": 1, "b": 1, "bare z": 1}


def test_what_came_after_a_crew_that_has_a_task_more(serve: Serve) -> None:
    server, releases = serve(), Releases(lambda: crew_of("One"))
    first, second = releases.crew(), DBOSCrew(crew_name=unique("second"), orig_crew=crew_of("Last"))
    run = unique("own")

    def plan() -> list[str]:
        return [first.kickoff({}).raw, second.kickoff({}).raw]

    begin(plan, run, follow_plainly).get_result()
    releases.build = lambda: crew_of("One", "Two")
    requests = len(server.requests)
    told = drift_of(run)
    assert "may have its result" in told
    one, last = DBOS.retrieve_workflow(forked(told)).get_result()
    assert one.startswith("Writer on Two")
    assert last.startswith("Writer on Last")
    assert asked_since(server, requests) == ["Last", "Two"]


def test_several_at_once_that_came_after_a_crew_that_has_a_task_more(serve: Serve) -> None:
    """What came after these depends on them, and needs no place of its own."""
    server, releases = serve(echo), Releases(lambda: crew_of("One"))
    first = releases.crew()
    left, right, last = (
        DBOSCrew(crew_name=unique(name), orig_crew=lambda name=name: crew_of(f"{name} {{x}}"))
        for name in ("Left", "Right", "Last")
    )
    run = unique("own")

    async def plan() -> list[str]:
        got = {"x": (await first.akickoff({})).raw}
        both = await asyncio.gather(left.akickoff(got), right.akickoff(got))
        return [each.raw for each in (*both, await last.akickoff({"x": both[0].raw}))]

    begin(plan, run, afollow).get_result()
    releases.build = lambda: crew_of("One", "Two")
    requests = len(server.requests)
    told = drift_of(run)
    assert command_in(told).count("--at") == 2
    results: list[str] = DBOS.retrieve_workflow(forked(told)).get_result()
    assert all("Two" in each for each in results)
    assert len(server.requests) == requests + 4


def run_before_another(server: ModelServer, first: Any) -> tuple[str, int]:
    """A workflow in which a crew uses the result of `first`. Returns its id, and what it asked."""
    second = DBOSCrew(crew_name=unique("second"), orig_crew=lambda: crew_of("Use {x}"))
    run = unique("own")

    def plan() -> list[str]:
        found = first.kickoff()
        result = str(getattr(found, "raw", found))
        return [result, second.kickoff({"x": result}).raw]

    begin(plan, run, follow_plainly).get_result()
    return run, len(server.requests)


class Quiet(Flow):
    @start()
    def begin(self) -> str:
        return say("begin")

    @listen("never")
    def more(self) -> str:
        return say("more")


class Loud(Flow):
    @start()
    def begin(self) -> str:
        return say("begin")

    @listen(begin)
    def more(self) -> str:
        return say("more")


def test_what_came_after_a_flow_in_which_another_method_begins(serve: Serve) -> None:
    server, releases = serve(echo), Releases(Quiet)
    run, requests = run_before_another(server, releases.flow())
    releases.build = Loud
    told = drift_of(run)
    assert "may have its result" in told
    outputs: list[str] = DBOS.retrieve_workflow(forked(told)).get_result()
    first, second = outputs
    assert first == "<more>"
    assert "Use <more>" in second
    assert len(server.requests) == requests + 2


def deciding(last: type[Task] | None, *, yes: bool = False) -> Callable[[], Crew]:
    """A crew of which the last task may have a condition, or may be missing."""

    def build() -> Crew:
        writer = agent("Writer")
        tasks = [task("One", writer, name="one")]
        if last is not None:
            given: dict[str, Any] = {"description": "Two", "expected_output": "A text."}
            if last is ConditionalTask:
                given["condition"] = lambda _: yes
            tasks.append(last(**given, agent=writer, name="two"))
        return Crew(agents=[writer], tasks=tasks)

    return build


@pytest.mark.parametrize(
    ("yes", "last"),
    some_here(product([False, True], [Task, None]), [(False, Task), (True, None)]),
)
def test_a_task_with_a_condition_before_another_crew(
    yes: bool, last: type[Task] | None, serve: Serve
) -> None:
    result = "Two" if last else "One"
    server, releases = serve(echo), Releases(deciding(ConditionalTask, yes=yes))
    run, requests = run_before_another(server, releases.crew())
    releases.build = deciding(last)
    told = drift_of(run)
    outputs: list[str] = DBOS.retrieve_workflow(forked(told)).get_result()
    first, second = outputs
    assert f"Current Task: {result}" in first
    assert f"Current Task: {result}" in second.partition("Use")[2]
    assert len(server.requests) == requests + (2 if last else 1)


# Places -------------------------------------------------------------------------------------


def test_no_place_at_all(url: str, serve: Serve) -> None:
    """It would be the fork that makes everything again."""
    server, releases = serve(), Releases(lambda: crew_of("One"))
    run = releases.crew().start({})
    run.get_result()
    with Control(url) as control:
        for ask in (control.fork, control.made_again):
            with pytest.raises(ForkError, match="at='end'"):
                ask(run.workflow_id, [])
    assert len(server.requests) == 1


def test_the_failure_of_joined_work_is_named_by_its_number(url: str, serve: Serve) -> None:
    """`end` is after all that is recorded, also where an entry ends so."""
    serve()
    works = [False]
    run = unique("own")

    def plan() -> str:
        with suppress(ValueError), working() as scope, body.ending(scope):
            call(scope, "a")
            if not works[0]:
                raise ValueError("not yet")
            return "well"
        return "failed"

    begin(plan, run, follow_plainly).get_result()
    works[0] = True
    work.done.clear()
    with Control(url) as control:
        results = [
            DBOS.retrieve_workflow(control.fork(run, at)).get_result()
            for at in ("end", "end#1", "work#1/end")
        ]
    assert results == ["failed", "well", "well"]
    assert not work.done


# Versions -----------------------------------------------------------------------------------


def test_the_version_whose_code_it_is(serve: Serve) -> None:
    """The newest takes a fork if none is named; here the code of another does not fit."""
    server, releases = serve(), Releases(lambda: crew_of("One"))
    run = releases.crew().start({})
    run.get_result()
    releases.build = lambda: crew_of("One", "Two")
    system = launched_database().system
    system.create_application_version(LATER)
    system.update_application_version_timestamp(LATER, 2**41)
    try:
        launched_database().system.rewind_workflow(
            run.workflow_id, 1 + max(n for n, _ in steps(run.workflow_id)), application_version=NOW
        )
        told = stopped(run.workflow_id)
        assert told.endswith(f"--at end --version {NOW}")
        shown = given(f"crewai-dbos runs show {run.workflow_id}")
        assert command_in(told) in shown, "to be copied, also where lines are short"
        fork = forked(told)
        DBOS.retrieve_workflow(fork).get_result()
    finally:
        system.update_application_version_timestamp(LATER, 1)
    assert asked_since(server, 1) == ["Two"]


def test_no_version_is_known(serve: Serve) -> None:
    """The run stops all the same, and its fork is of its own version."""
    releases = Releases(lambda: crew_of("One"))
    serve()
    run = releases.crew().start({})
    run.get_result()
    releases.build = lambda: crew_of("One", "Two")
    system = launched_database().system
    with system.engine.begin() as connection:
        connection.execute(SystemSchema.application_versions.delete())
    try:
        told = drift_of(run.workflow_id)
    finally:
        system.create_application_version(NOW)
    assert told.endswith(f"--at end --version {NOW}")


def test_threads_that_stop_for_the_same_error(serve: Serve) -> None:
    for _ in range(3):
        run = unique("run")
        begin(calling("a"), run, follow_plainly).get_result()
        database = launched_database()
        with database.engine.begin() as connection:  # as it is while threads of it are at work
            its_row = database.runs.c.workflow_uuid == run
            at_work = {"status": "PENDING", "owner_xid": "ours", "completed_at": None}
            connection.execute(sa.update(database.runs).where(its_row).values(**at_work))
        error = drift(f"Run {run}: it does not fit.", Onward())
        together = threading.Barrier(4)

        def at_once(text: str, together: threading.Barrier = together) -> str:
            together.wait(10)
            return text

        with ThreadPoolExecutor(4) as threads:
            stops = [threads.submit(notes.stop, run, "ours", error, [at_once]) for _ in range(4)]
        assert [each.result() for each in stops] == [None] * 4
        status = DBOS.get_workflow_status(run)
        assert status is not None
        told = (status.attributes or {})["crewai_dbos"]["stopped"]
        assert told.endswith(f"crewai-dbos runs fork {run} --at end")
        assert str(error) == told
