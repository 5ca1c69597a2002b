"""A run is forked by place: what depends on it is made again, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from crewai import Crew, Process
from crewai.flow.flow import Flow, and_, listen, router, start
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID
from pydantic import BaseModel

from crewai_dbos import DBOSAgent, DBOSCrew, DBOSFlow, StepConfig
from crewai_dbos.control import Control
from crewai_dbos.errors import ForkError, RunNotFoundError, RunStoppedError
from crewai_dbos.testing import ModelServer, Reply, Request, ToolCall, error, text, tool_calls
from crews.scenarios import agent, answer, asked, by_role, delegate, role, task, turns
from flows.scenarios import echo, say
from support.databases import both_here, some_here
from support.names import unique
from support.serving import Serve, serving

BOTH = both_here("url")


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, url: str) -> Iterator[Serve]:
    yield from serving(monkeypatch, answer)


def made(server: ModelServer, before: int = 0) -> Counter[str]:
    """What the model was asked for, by task, since it had had `before` requests."""
    return Counter(asked(request) for request in server.requests[before:])


def result(run_id: str) -> Any:
    return DBOS.retrieve_workflow(run_id).get_result()


def raw(run_id: str) -> list[str]:
    """The outputs of the tasks of a crew's run."""
    return [output["fields"]["raw"] for output in result(run_id)["fields"]["tasks_output"]]


def named(build: Callable[[], Crew], **options: Any) -> DBOSCrew:
    return DBOSCrew(crew_name=unique("forked"), orig_crew=build, **options)


def steps(run_id: str) -> list[tuple[int, str, Any]]:
    found = DBOS.list_workflow_steps(run_id)
    return [(step["function_id"], step["function_name"], step["output"]) for step in found]


def three() -> Crew:
    writer = agent("Writer")
    tasks = [
        task("Outline", writer, name="outline"),
        task("Draft", writer, name="draft"),
        task("Polish", writer, name="polish"),
    ]
    return Crew(agents=[writer], tasks=tasks)


def test_a_task_and_those_after_it(serve: Serve, control: Control) -> None:
    server, crew = serve(), named(three)
    run = crew.start({})
    first = run.get_result()
    recorded = steps(run.workflow_id)
    for at in ("task:2", "task:draft", "task:2.draft#1"):
        before = len(server.requests)
        fork = control.fork(run.workflow_id, at=at)
        assert raw(fork) == [output.raw for output in first.tasks_output]
        assert made(server, before) == {"Draft": 1, "Polish": 1}
        assert steps(run.workflow_id) == recorded
        assert DBOS.retrieve_workflow(fork).get_status().forked_from == run.workflow_id


@BOTH
def test_an_edited_output_is_what_later_tasks_see(serve: Serve, control: Control) -> None:
    server, crew = serve(), named(three)
    run = crew.start({})
    run.get_result()
    before = len(server.requests)
    fork = control.fork(run.workflow_id, edit={"task:outline": "Otters!"}, by="ann")
    outline, draft, _ = raw(fork)
    assert outline == "Otters!"
    assert "given [Otters!]" in draft
    assert made(server, before) == {"Draft": 1, "Polish": 1}
    note = DBOS.retrieve_workflow(fork).get_status().attributes["crewai_dbos_fork"]
    assert (note["of"], note["by"], note["at"]) == (run.workflow_id, "ann", None)
    (entry,) = [output for _, name, output in steps(fork) if name in note["edited"]]
    assert (entry["edited"]["by"], entry["result"]) == ("ann", "Otters!")


def three_at_once() -> Crew:
    writer = agent("Writer")
    first, second, third = (
        task(what, writer, name=what.lower(), async_execution=True)
        for what in ("Rivers", "Otters", "Boats")
    )
    last = task("Sum up", writer, name="sum", context=[first, second, third])
    return Crew(agents=[writer], tasks=[first, second, third, last])


def test_in_the_middle_of_three_async_tasks(serve: Serve, control: Control) -> None:
    server, crew = serve(), named(three_at_once)
    run = crew.start({})
    before_it = raw(run.workflow_id)
    before = len(server.requests)
    fork = control.fork(run.workflow_id, edit={"task:otters": "Otters swim."})
    rivers, otters, boats, summed = raw(fork)
    assert [rivers, boats] == [before_it[0], before_it[2]]
    assert otters == "Otters swim."
    assert "Otters swim." in server.requests[-1].last_user_text
    assert made(server, before) == {"Sum up": 1}
    again = control.fork(run.workflow_id, at="task:2")
    assert raw(again) == before_it
    assert made(server, before) == {"Sum up": 2, "Otters": 1}
    assert summed


def test_only_tasks_that_see_the_output(serve: Serve, control: Control) -> None:
    def build() -> Crew:
        writer = agent("Writer")
        one, two = task("One", writer), task("Two", writer)
        return Crew(
            agents=[writer],
            tasks=[
                one,
                two,
                task("Of one", writer, context=[one]),
                task("Of two", writer, context=[two]),
                task("Of none", writer, context=[]),
                task("Of all", writer),
            ],
        )

    server, crew = serve(), named(build)
    run = crew.start({})
    run.get_result()
    before = len(server.requests)
    raw(control.fork(run.workflow_id, edit={"task:2": "Two!"}))
    assert made(server, before) == {"Of two": 1, "Of all": 1}


def test_a_failed_run_goes_on_where_it_failed(serve: Serve, control: Control) -> None:
    broken = [True]

    def script(request: Request) -> Reply:
        return error(401) if broken and asked(request) == "Polish" else answer(request)

    server, crew = serve(script), named(three)
    run = crew.start({})
    with pytest.raises(Exception, match="401"):
        run.get_result()
    broken.clear()
    for at in ("task:polish/agent:Writer", "failure"):
        before = len(server.requests)
        fork = control.fork(run.workflow_id, at=at)
        assert len(raw(fork)) == 3
        assert made(server, before) == {"Polish": 1}


charged: list[str] = []


@tool
def charge(card: str) -> str:
    """Charge a card."""
    charged.append(card)
    if card == "broken":
        raise ValueError("no such card")
    return "charged"


def test_a_call_that_an_agent_has_lived_with_is_not_the_failure(
    serve: Serve, control: Control
) -> None:
    """Nor is what it did before its last request made again, though crewAI began anew."""
    broken = [True]

    def script(request: Request) -> Reply:
        done = len(request.tool_results)
        if done < 2:
            return tool_calls(ToolCall("charge", {"card": ("broken", "good")[done]}))
        return error(401) if broken else text("Done.")

    server = serve(script)
    charged.clear()

    def build() -> Crew:
        cashier = agent("Cashier", tools=[charge], max_retry_limit=0)
        return Crew(agents=[cashier], tasks=[task("Charge", cashier)])

    run = named(build).start({})
    with pytest.raises(Exception, match="401"):
        run.get_result()
    assert charged == ["broken", "good"]
    broken.clear()
    before = len(server.requests)
    assert raw(control.fork(run.workflow_id, at="failure")) == ["Done."]
    assert charged == ["broken", "good"]
    assert len(server.requests) == before + 1


class Fails(Flow[dict[str, Any]]):
    @start()
    def first(self) -> str:
        return say("first")

    @listen(first)
    def second(self, given: str) -> str:
        said = say("second")
        if broken_methods:
            raise ValueError(f"{said} is broken")
        return f"{given} {said}"


broken_methods: list[bool] = []


def test_a_method_whose_own_code_failed_is_the_failure(serve: Serve, control: Control) -> None:
    server = serve(echo)
    broken_methods.append(True)
    flow = DBOSFlow(flow_name=unique("forked"), orig_flow=Fails)
    run = flow.start({})
    with pytest.raises(ValueError, match="is broken"):
        run.get_result()
    broken_methods.clear()
    before = len(server.requests)
    assert result(control.fork(run.workflow_id, at="failure")) == "<first> <second>"
    assert len(server.requests) == before + 1
    whole = flow.start({})
    whole.get_result()
    with pytest.raises(ForkError, match="has not failed"):
        control.fork(whole.workflow_id, at="failure")


class LivesWith(Flow[dict[str, Any]]):
    @start()
    def first(self) -> str:
        with contextlib.suppress(Exception):
            say("lost")
        return "first"

    @listen(first)
    def second(self, given: str) -> str:
        with contextlib.suppress(Exception):
            Crew(agents=[agent("Writer")], tasks=[task("lost", agent("Writer"))]).kickoff()
        return given

    @listen(second)
    def third(self, given: str) -> None:
        if given == "first":
            raise ValueError("own code")


@pytest.mark.parametrize("ends", ["failed", "done", "cancelled"])
def test_what_methods_have_caught_is_not_the_failure(
    ends: str, serve: Serve, control: Control, sql: Callable[..., Any]
) -> None:
    serve(lambda request: error(401) if "lost" in str(request.messages) else text("ok"))
    run = DBOSFlow(flow_name=unique("forked"), orig_flow=LivesWith).start({})
    with pytest.raises(ValueError, match="own code"):
        run.get_result()
    if ends == "failed":
        again = control.made_again(run.workflow_id, at="failure")
        assert (again.llm_requests, again.methods) == (0, {"third": 1})
        return
    status = {"done": "SUCCESS", "cancelled": "CANCELLED"}[ends]
    sql(
        "UPDATE {ws} SET status = :status WHERE workflow_uuid = :run",
        status=status,
        run=run.workflow_id,
    )
    with pytest.raises(ForkError, match="has not failed"):
        control.fork(run.workflow_id, at="failure")
    with pytest.raises(ForkError, match="has not failed"):
        control.made_again(run.workflow_id, at="failure")


used: list[str] = []


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    used.append(word)
    return f"{word} is a word"


def looks_up(request: Request) -> Reply:
    if not request.tool_results:
        return tool_calls(*(ToolCall("look_up", {"word": word}) for word in ("a", "b", "c")))
    return text("; ".join(found for _, found in request.tool_results))


@pytest.fixture
def reader() -> DBOSCrew:
    def build() -> Crew:
        who = agent("Reader", tools=[look_up])
        return Crew(agents=[who], tasks=[task("Read", who)])

    used.clear()
    return named(build)


def tool_call(run_id: str, word: str) -> str:
    """The name of the call that looked this word up."""
    names = [
        name for _, name, output in steps(run_id) if output.get("result") == f"{word} is a word"
    ]
    (found,) = names
    return found


def test_one_of_several_tool_calls(serve: Serve, control: Control, reader: DBOSCrew) -> None:
    server = serve(looks_up)
    run = reader.start({})
    first = raw(run.workflow_id)
    before = len(server.requests)
    assert raw(control.fork(run.workflow_id, at=tool_call(run.workflow_id, "b"))) == first
    assert Counter(used) == {"a": 1, "b": 2, "c": 1}
    assert len(server.requests) - before == 1
    edited = {tool_call(run.workflow_id, "b"): "b is a bee"}
    assert raw(control.fork(run.workflow_id, edit=edited)) == [
        "a is a word; b is a bee; c is a word"
    ]
    assert Counter(used) == {"a": 1, "b": 2, "c": 1}


def test_an_edited_answer_of_an_llm(serve: Serve, control: Control, reader: DBOSCrew) -> None:
    server = serve(looks_up)
    run = reader.start({})
    run.get_result()
    before = len(server.requests)
    assert raw(control.fork(run.workflow_id, edit={"llm#2": "Nothing."})) == ["Nothing."]
    assert raw(control.fork(run.workflow_id, edit={"llm#1": "No need."})) == ["No need."]
    assert (len(server.requests) - before, len(used)) == (0, 3)


def test_hierarchical(serve: Serve, control: Control) -> None:
    def build() -> Crew:
        return Crew(
            agents=[agent("Researcher")],
            tasks=[task("Plan", None, name="plan"), task("Do", None, name="do")],
            process=Process.hierarchical,
            manager_llm="gpt-4o-mini",
        )

    script = by_role(
        Crew_Manager=turns(tool_calls(delegate("Dig", "Researcher"))), Researcher=answer
    )
    server, crew = serve(script), named(build)
    run = crew.start({})
    first = raw(run.workflow_id)
    before = len(server.requests)
    fork = control.fork(run.workflow_id, at="task:plan/agent:Researcher")
    assert raw(fork) == first
    assert Counter(role(r) for r in server.requests[before:]) == {
        "Researcher": 2,
        "Crew Manager": 3,
    }


class Report(BaseModel):
    title: str
    pages: int


def test_an_edited_output_is_neither_guarded_nor_asked_for(
    serve: Serve, control: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checked: list[str] = []
    told: list[str] = []

    def guard(output: Any):  # type: ignore[no-untyped-def]
        checked.append(output.raw)
        return True, output.raw

    def build() -> Crew:
        writer = agent("Writer")
        report = task(
            "Report",
            writer,
            name="report",
            output_pydantic=Report,
            guardrail=guard,
            callback=lambda output: told.append(output.raw),
            output_file="report.json",
        )
        return Crew(agents=[writer], tasks=[report, task("Praise", writer)])

    def script(request: Request) -> Reply:
        if asked(request) == "Report" or request.response_format or request.tools:
            return text('{"title": "Otters", "pages": 1}')
        return answer(request)

    server, crew = serve(script), named(build)
    run = crew.start({})
    run.get_result()
    before = len(server.requests)
    checked.clear()
    fork = control.fork(run.workflow_id, edit={"task:report": {"title": "Boats", "pages": 2}})
    found = result(fork)["fields"]["tasks_output"][0]["fields"]
    assert found["pydantic"]["fields"] == {"title": "Boats", "pages": 2}
    assert checked == []
    assert told[-1] == '{"title": "Boats", "pages": 2}'
    assert "Boats" in (tmp_path / "report.json").read_text()
    assert made(server, before) == {"Praise": 1}


def test_an_agent_of_its_own(serve: Serve, control: Control) -> None:
    used.clear()
    server = serve(looks_up)
    reader = DBOSAgent(
        agent_name=unique("reader"),
        orig_agent=agent("Reader", tools=[look_up]),
        tool_step_config=StepConfig(),
    )
    run_id = unique("agent-run")
    with SetWorkflowID(run_id):
        first = reader.execute_task(task("Read", None))
    before = len(server.requests)
    fork = control.fork(run_id, at="llm#2")
    assert result(fork) == first
    assert (len(server.requests) - before, len(used)) == (1, 3)
    with pytest.raises(ForkError, match="no inputs"):
        control.fork(run_id, inputs={"topic": "otters"})


@BOTH
def test_other_inputs_from_the_beginning(serve: Serve, control: Control) -> None:
    def build() -> Crew:
        writer = agent("Writer")
        return Crew(agents=[writer], tasks=[task("On {topic}", writer)])

    server, crew = serve(), named(build)
    run = crew.start({"topic": "otters"})
    run.get_result()
    assert "On boats" in raw(control.fork(run.workflow_id, inputs={"topic": "boats"}))[0]
    assert "On otters" in raw(control.fork(run.workflow_id))[0]
    assert made(server) == {"On otters": 2, "On boats": 1}
    with pytest.raises(ForkError, match="Fork it from the beginning"):
        control.fork(run.workflow_id, at="task:1", inputs={"topic": "boats"})


@BOTH
def test_what_can_not_be(serve: Serve, control: Control) -> None:
    serve()
    crew = named(three)
    run = crew.start({})
    run.get_result()
    run_id = run.workflow_id
    number = len(DBOS.list_workflows(workflow_ids=[]) or DBOS.list_workflows())

    def refused(match: str, **wanted: Any) -> None:
        with pytest.raises(ForkError, match=match):
            control.fork(run_id, **wanted)

    refused("nearest: .*task:2.draft#1", at="task:drafts")
    refused("more than once: .*task:1.outline#1/agent:Writer#1/llm#1", at="llm#1")
    refused("a text, not a number", edit={"task:1/agent:Writer/llm#1": 3})
    refused("or JSON of the model", edit={"task:1": 3})
    refused("definition.* can't be edited", edit={"definition#1": {}})
    refused("would be lost", at="task:1", edit={"task:1/agent:Writer/llm#1": "No"})
    refused("would be lost", edit={"task:1": "One", "task:2/agent:Writer/llm#1": "Two"})
    with pytest.raises(RunNotFoundError):
        control.fork("no-such-run", at="task:1")
    assert len(DBOS.list_workflows()) == number


def test_two_edits(serve: Serve, control: Control) -> None:
    server, crew = serve(), named(three)
    run = crew.start({})
    run.get_result()
    before = len(server.requests)
    fork = control.fork(run.workflow_id, edit={"task:outline": "One", "task:draft": "Two"})
    assert raw(fork)[:2] == ["One", "Two"]
    assert made(server, before) == {"Polish": 1}
    third = control.fork(fork, edit={"task:outline": "Three"})
    assert raw(third)[0] == "Three"
    assert made(server, before) == {"Polish": 2, "Draft": 1}
    before = len(server.requests)
    again = control.fork(fork, at="task:polish")
    assert raw(again)[:2] == ["One", "Two"]
    assert made(server, before) == {"Polish": 1}
    assert DBOS.retrieve_workflow(again).get_status().forked_from == fork


# Flows ---------------------------------------------------------------------------------


class Branches(Flow):
    """Two branches that know nothing of each other, and one method that waits for both."""

    @start()
    def begin(self) -> str:
        self.state["topic"] = say("topic")
        return "go"

    @listen(begin)
    def left(self) -> str:
        self.state["left"] = say("left")
        return self.state["left"]

    @listen(left)
    def left_more(self, found: str) -> str:
        self.state["left_more"] = say(f"more of {found}")
        return self.state["left_more"]

    @listen(begin)
    def right(self) -> str:
        self.state["right"] = say("right")
        return self.state["right"]

    @listen(right)
    def right_more(self, found: str) -> str:
        self.state["right_more"] = say(f"more of {found}")
        return self.state["right_more"]

    @listen(and_(left_more, right_more))
    def last(self) -> dict[str, Any]:
        say("last")
        return dict(self.state)


def flow_of(cls: type[Flow[Any]]) -> DBOSFlow:
    return DBOSFlow(flow_name=unique("forked"), orig_flow=cls)


def said(server: ModelServer, before: int = 0) -> Counter[str]:
    return Counter(request.last_user_text for request in server.requests[before:])


def test_one_of_two_branches(serve: Serve, control: Control) -> None:
    server, flow = serve(echo), flow_of(Branches)
    run = flow.start()
    first = run.get_result()
    before = len(server.requests)
    fork = control.fork(run.workflow_id, at="method:left")
    assert result(fork) == first
    assert said(server, before) == {"left": 1, "more of <left>": 1, "last": 1}
    edited = control.fork(run.workflow_id, edit={"method:right": "RIGHT"})
    before = len(server.requests)
    assert result(edited)["right_more"] == "<more of RIGHT>"
    assert said(server, before) == {"more of RIGHT": 1, "last": 1}
    again = control.fork(edited, at="method:last")
    assert result(again)["right_more"] == "<more of RIGHT>"


class Shared(Flow):
    """Both branches write into one list: what the second stored has the first's in it."""

    @start()
    def begin(self) -> None:
        self.state["heard"] = []

    @listen(begin)
    async def first(self) -> str:
        self.state["heard"].append("first")
        return await asyncio.to_thread(say, "first")

    @listen(begin)
    async def second(self) -> str:
        answer = await asyncio.to_thread(say, "second")
        self.state["heard"].append("second")
        return answer

    @listen(and_(first, second))
    def last(self) -> list[str]:
        return list(self.state["heard"])


def test_nothing_of_a_method_is_left_in_the_state(serve: Serve, control: Control) -> None:
    serve(echo)
    flow = flow_of(Shared)
    run = flow.start()
    assert sorted(run.get_result()) == ["first", "second"]
    for at in ("method:first", "method:second"):
        assert sorted(result(control.fork(run.workflow_id, at=at))) == ["first", "second"]


class Loop(Flow):
    """Draft and review until the third draft."""

    @start()
    def begin(self) -> str:
        return say("begin")

    @router(begin)
    def first(self) -> str:
        return "again"

    @listen("again")
    def draft(self) -> str:
        self.state["drafts"] = self.state.get("drafts", 0) + 1
        return say(f"draft {self.state['drafts']}")

    @router(draft)
    def review(self) -> str:
        say(f"review {self.state['drafts']}")
        return "again" if self.state["drafts"] < 3 else "done"

    @listen("done")
    def publish(self) -> str:
        return say(f"publish {self.state['drafts']}")


def test_a_method_that_is_executed_often(serve: Serve, control: Control) -> None:
    server, flow = serve(echo), flow_of(Loop)
    run = flow.start()
    first = run.get_result()
    for at, anew in (
        ("method:draft", ["draft 3", "review 3", "publish 3"]),
        ("method:review#2", ["review 2", "draft 3", "review 3", "publish 3"]),
        ("method:publish", ["publish 3"]),
    ):
        before = len(server.requests)
        assert result(control.fork(run.workflow_id, at=at)) == first, at
        assert said(server, before) == Counter(anew), at
    # Another way is taken.
    before = len(server.requests)
    fork = control.fork(run.workflow_id, edit={"method:review#1": "done"})
    assert result(fork) == "<publish 1>"
    assert said(server, before) == {"publish 1": 1}


class Chains(Flow):
    """A router beside listeners: crewAI's engine runs it first, and they wait for it."""

    @start()
    def begin(self) -> str:
        return say("begin")

    @router(begin)
    def route(self) -> str:
        say("route")
        return "way"

    @listen(begin)
    def beside(self) -> str:
        return say("beside")

    @listen(beside)
    def beside_more(self) -> str:
        return say("beside more")

    @listen("way")
    def taken(self) -> str:
        return say("taken")


def test_what_the_engine_runs_first(serve: Serve, control: Control) -> None:
    serve(echo)
    flow = flow_of(Chains)
    run = flow.start()
    first = run.get_result()
    for at in ("begin", "route", "beside", "beside_more", "taken"):
        assert result(control.fork(run.workflow_id, at=f"method:{at}")) == first, at


class WithCrews(Flow):
    """Each of two methods kicks a crew off."""

    @start()
    def begin(self) -> str:
        return "go"

    @listen(begin)
    def left(self) -> str:
        return str(crew_of("left").kickoff().raw)

    @listen(begin)
    def right(self) -> str:
        return str(crew_of("right").kickoff().raw)

    @listen(and_(left, right))
    def last(self) -> str:
        return say("last")


def crew_of(what: str) -> Crew:
    writer = agent("Writer")
    tasks = [task(f"{what} one", writer, name="one"), task(f"{what} two", writer, name="two")]
    return Crew(name=what, agents=[writer], tasks=tasks)


def test_a_crew_in_a_method(serve: Serve, control: Control) -> None:
    def script(request: Request) -> Reply:
        return echo(request) if request.last_user_text == "last" else answer(request)

    server, flow = serve(script), flow_of(WithCrews)
    run = flow.start()
    first = run.get_result()
    before = len(server.requests)
    with pytest.raises(ForkError, match=r"more than once: .*method:left#1/crew:left#1/task:2"):
        control.fork(run.workflow_id, at="task:two")
    fork = control.fork(run.workflow_id, at="crew:left/task:two")
    assert result(fork) == first
    assert made(server, before) == {"left two": 1, "last": 1}


class Versions:
    """A crew of which each release has another last task."""

    def __init__(self) -> None:
        self.last = {"what": "Print", "name": "print"}
        self.crew = named(self.build)

    def build(self) -> Crew:
        writer = agent("Writer")
        outline = task("Outline", writer, name="outline")
        last = task(self.last["what"], writer, name=self.last["name"], context=[outline])
        return Crew(agents=[writer], tasks=[outline, task("Draft", writer, name="draft"), last])


@BOTH
def test_a_fork_under_another_release_is_recovered_and_forked(
    serve: Serve, control: Control
) -> None:
    server, versions = serve(), Versions()
    run = versions.crew.start({})
    run.get_result()
    versions.last = {"what": "Post", "name": "post"}
    fork = control.fork(run.workflow_id, at="task:print")
    posted = raw(fork)
    assert "Post" in posted[2]
    before = len(server.requests)
    last = max(number for number, _, _ in steps(fork))
    assert raw(DBOS.fork_workflow(fork, last + 1).get_workflow_id()) == posted
    assert raw(control.fork(fork, edit={"task:draft": "No more."}))[1:] == ["No more.", posted[2]]
    assert len(server.requests) == before
    versions.last = {"what": "Burn", "name": "burn"}
    with pytest.raises(RunStoppedError, match=r"'post'.* is now 'burn'"):
        versions.crew.retrieve(control.fork(fork, at="task:draft")).get_result()


class First(Flow):
    @start()
    def begin(self) -> str:
        return say("begin")

    @listen(begin)
    def last(self) -> str:
        return say("last")


class Second(Flow):
    @start()
    def begin(self) -> str:
        return say("begin")

    @listen(begin)
    def more(self) -> str:
        return say("more")

    @listen(more)
    def last(self) -> str:
        return say("last")


def test_a_fork_of_a_flow_under_another_release(serve: Serve, control: Control) -> None:
    server, release = serve(echo), [First]
    flow = DBOSFlow(flow_name=unique("forked"), orig_flow=lambda: release[-1]())
    run = flow.start()
    run.get_result()
    release.append(Second)
    fork = control.fork(run.workflow_id, at="method:last")
    assert result(fork) == "<last>"
    before = len(server.requests)
    last = max(number for number, _, _ in steps(fork))
    assert result(DBOS.fork_workflow(fork, last + 1).get_workflow_id()) == "<last>"
    assert len(server.requests) == before
    assert result(control.fork(fork, at="method:more")) == "<last>"
    assert said(server, before) == {"more": 1, "last": 1}


# A kickoff under the id of a run that has failed ------------------------------------------


def kickoff(crew: DBOSCrew) -> Any:
    return crew.kickoff()


def akickoff(crew: DBOSCrew) -> Any:
    return asyncio.run(crew.akickoff())


def start_it(crew: DBOSCrew) -> Any:
    return crew.start().get_result()


@pytest.mark.parametrize(
    ("again", "is_built"),
    some_here(
        product([kickoff, akickoff, start_it], [True, False]),
        [(kickoff, True), (akickoff, False), (start_it, True)],
    ),
)
def test_a_kickoff_that_raises_an_old_error_says_so_and_what_to_do(
    is_built: bool,
    again: Callable[[DBOSCrew], Any],
    serve: Serve,
    control: Control,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, broken = serve(lambda request: error(401)), [False]

    def build() -> Crew:
        if broken[0]:
            raise LookupError("Where is the API key?")
        return one_task()

    crew, run_id = named(build), unique("key")
    broken[0] = not is_built
    with SetWorkflowID(run_id), pytest.raises(Exception, match=r"(?i)api.?key"):
        crew.kickoff()
    assert told_of(run_id, caplog) == []
    assert bool(DBOS.list_workflow_steps(run_id)) == is_built
    broken[0] = False
    requests = len(server.requests)
    serve(answer)
    with SetWorkflowID(run_id), pytest.raises(Exception, match=r"(?i)api.?key"):
        again(crew)
    (line,) = told_of(run_id, caplog)
    ended = DBOS.get_workflow_status(run_id).completed_at  # type: ignore[union-attr]
    when = datetime.fromtimestamp(ended / 1000, timezone.utc)  # type: ignore[operator]
    assert line == (
        f"Run {run_id!r} failed at {when:%Y-%m-%d %H:%M:%S} UTC. A kickoff under its id raises the "
        "error that was recorded then, and does nothing anew. When the cause is mended: "
        f"crewai-dbos runs fork {run_id}, or take another workflow id."
    )
    assert len(server.requests) == requests
    assert raw(control.fork(run_id)) == ["Clerk on Do it"]


def test_a_child_that_failed_is_not_told_of_when_its_parent_is_carried_out_again(
    serve: Serve, control: Control, caplog: pytest.LogCaptureFixture
) -> None:
    serve(lambda request: error(401))
    crew, run_id = named(lambda: one_task()), unique("parent")

    @DBOS.workflow(name=unique("parent"))
    def parent() -> str:
        with SetWorkflowID(f"{run_id}-child"):
            run = crew.start()
        try:
            return str(run.get_result().raw)
        except Exception as failed:
            return type(failed).__name__

    with SetWorkflowID(run_id):
        first = parent()
    again = DBOS.fork_workflow(run_id, 100)
    assert again.get_result() == first
    assert told_of(f"{run_id}-child", caplog) == []


def one_task() -> Crew:
    clerk = agent("Clerk")
    return Crew(agents=[clerk], tasks=[task("Do it", clerk)])


def told_of(run_id: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    said = [each for each in caplog.records if each.name == "crewai_dbos"]
    return [each.getMessage() for each in said if f"{run_id!r} failed at" in each.getMessage()]
