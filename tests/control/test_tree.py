"""What is in a run: its calls by their places, each with what is known of it."""

from __future__ import annotations

import io
import itertools
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from crewai import Crew, Task
from crewai.flow.flow import Flow, listen, start
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID
from rich.console import Console

import crewai_dbos
from control import reading_runs
from control.reading_runs import ROW, clerk, crew_of, ended, every, look_up, names
from crewai_dbos import DBOSCrew, DBOSFlow, StepConfig
from crewai_dbos._commands.runs import _whole
from crewai_dbos._control.tree import nodes, seconds_in_calls
from crewai_dbos._dbos_seam.stored_contents import StoredStep
from crewai_dbos._http.timeline import timeline
from crewai_dbos.control import Control, Node, Tokens
from crewai_dbos.testing import Reply, Request, ToolCall, error, history, text, tool_calls
from support.databases import both_here
from support.names import unique
from support.serving import Serve

BOTH = both_here("url")

HISTORIES = Path(__file__).parents[1] / "histories"

serve = reading_runs.serve


def crew(*tasks: str, **options: Any) -> DBOSCrew:
    return DBOSCrew(crew_name=unique("crew"), orig_crew=crew_of(*tasks, **options))


@BOTH
def test_a_crew(serve: Serve, control: Control) -> None:
    serve()
    durable, run_id = crew("find", "write", tools=[look_up]), unique("crew")
    with SetWorkflowID(run_id):
        durable.kickoff()
    run = control.run(run_id)
    agent = ("agent:Clerk", ["llm", "tool:look_up", "llm#2"])
    assert names(run.children) == [("task:1.find", [agent]), ("task:2.write", [agent])]
    assert {node.state for node in every(run.children)} == {"done"}
    assert {node.kind for node in every(run.children)} == {"task", "agent", "llm", "tool"}
    task = run.children[0]
    assert task.path == f"crew:{durable.crew_name}#1/task:1.find#1"
    assert task.tokens == sum((node.tokens for node in every(task.children[0].children)), Tokens())
    assert run.tokens.requests == 4
    assert run.tokens.total > 0
    calls = task.children[0].children
    assert all(node.seconds is not None and node.started is not None for node in calls)
    assert (task.seconds or 0) >= sum(node.seconds or 0 for node in calls) - 0.01
    assert not any(node.replayed for node in every(run.children))
    (listed,) = control.runs(definition=durable.crew_name)
    assert listed.tokens == run.tokens
    assert listed.children == ()


@tool
def dig(where: str) -> str:
    """Dig somewhere."""
    time.sleep(1.2)
    return "A coin."


@BOTH
def test_a_tool_has_the_time_that_it_took(serve: Serve, control: Control) -> None:
    serve(digging)
    durable, run_id = crew("dig", tools=[dig]), unique("dug")
    with SetWorkflowID(run_id):
        durable.kickoff()
    run = control.run(run_id)
    (node,) = [node for node in every(run.children) if node.kind == "tool"]
    assert node.seconds is not None
    assert 1.2 <= node.seconds < 60
    (task,) = run.children
    assert task.seconds is not None
    assert task.seconds >= 1.2
    assert run.in_calls is not None
    assert run.in_calls >= 1.2


def digging(request: Request) -> Reply:
    if request.assistant_turns:
        return text("Found.")
    return tool_calls(ToolCall("dig", {"where": "here"}))


def test_what_a_fork_has_from_the_record(
    serve: Serve, control: Control, sql: Callable[..., Any]
) -> None:
    serve()
    durable, run_id = crew("find", "write"), unique("forked")
    with SetWorkflowID(run_id):
        durable.kickoff()
    # On SQLite the clock of DBOS has whole seconds before Python 3.12.
    sql(
        "UPDATE {steps} SET started_at_epoch_ms = started_at_epoch_ms - 5000, "
        "completed_at_epoch_ms = completed_at_epoch_ms - 5000 WHERE workflow_uuid = :run",
        run=run_id,
    )
    fork = DBOS.fork_workflow(run_id, 3).workflow_id
    ended(fork)
    first, second = control.run(fork).children
    assert (first.name, first.replayed, second.name, second.replayed) == (
        "task:1.find",
        True,
        "task:2.write",
        False,
    )
    assert not any(node.replayed for node in every(control.run(run_id).children))


def test_a_fork_has_the_times_of_its_own_calls_only(
    serve: Serve, control: Control, sql: Callable[..., Any]
) -> None:
    """What it has taken over was made in another run, by another clock."""
    serve()
    durable, run_id = crew("find", "write", tools=[look_up]), unique("forked")
    with SetWorkflowID(run_id):
        durable.kickoff()
    an_hour_ago = ", ".join(f"{c} = {c} - 3600000" for c in (START, END))
    sql(f"UPDATE {{steps}} SET {an_hour_ago} WHERE workflow_uuid = :run", run=run_id)
    fork = control.fork(run_id, at="task:find/llm#2")
    ended(fork)
    run = control.run(fork)
    first, second = run.children
    llm, tool_call, again = first.children[0].children
    assert (llm.taken_over, tool_call.taken_over, again.taken_over) == (True, True, False)
    assert (llm.started, tool_call.started) == (None, None)
    assert llm.seconds is not None
    assert llm.seconds < 60
    for node in (first, first.children[0], again, second):
        assert not node.taken_over
        assert node.started is not None
        assert node.started >= run.created.replace(microsecond=0)
        assert node.seconds is not None
        assert node.seconds < 60

    waits = control.fork(run_id, at="task:write", version="no process has it")
    first, *_ = control.run(waits).children
    assert all(node.taken_over and node.replayed for node in every((first,)))
    assert all(node.started is None for node in every(control.run(waits).children))
    assert first.seconds is None


def test_the_time_on_a_queue_is_told_apart(
    serve: Serve, control: Control, sql: Callable[..., Any]
) -> None:
    serve()
    durable, run_id = crew("find"), unique("forked")
    with SetWorkflowID(run_id):
        durable.kickoff()
    assert control.run(run_id).queued is None
    fork = control.fork(run_id, at="task:find")
    ended(fork)
    sql("UPDATE {ws} SET created_at = created_at - 3600000 WHERE workflow_uuid = :run", run=fork)
    run = control.run(fork)
    assert run.seconds is not None
    assert run.queued is not None
    assert 3598 < run.queued <= run.seconds
    seen = timeline(run, {})
    assert "min" not in "".join(text for _, text in seen.ticks)
    assert all(row.left is not None and 0 <= row.left <= 100 for row in seen.rows)
    shown = _whole(run)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(shown)
    assert run.in_calls is not None
    assert run.in_calls < 60
    told = console.export_text()
    assert "of it in a queue" in told
    assert "in calls" in told

    waits = control.fork(run_id, at="task:find", version="no process has it")
    run = control.run(waits)
    assert run.queued == run.seconds


def test_calls_beside_each_other_count_once() -> None:
    def node(kind: str, begin: float, seconds: float, *inside: Node) -> Node:
        started = datetime.fromtimestamp(begin, timezone.utc)
        return Node(kind, kind, kind, "done", started, seconds, children=inside)

    llm, tool_call, beside = node("llm", 10, 3), node("tool", 20, 4), node("tool", 22, 5)
    waits, later = node("person", 30, 1000), node("llm", 2000, 1)
    assert seconds_in_calls([node("task", 10, 2000, llm, tool_call, beside, waits, later)]) == 11
    assert seconds_in_calls([]) == 0


START, END = "started_at_epoch_ms", "completed_at_epoch_ms"


class Pipeline(Flow):
    @start()
    def draft(self) -> str:
        crewai_dbos.step(own_effect)
        pressed()
        return str(crew_of("find")().kickoff().raw)

    @listen(draft)
    def publish(self) -> str:
        handle = DBOS.start_workflow(child, 3)
        return f"{handle.get_result()}"


def own_effect() -> int:
    return 1


@DBOS.step(name="pressed")
def pressed() -> int:
    return 2


@DBOS.workflow(name="tree.child")
def child(number: int) -> int:
    return number


def test_a_flow_with_steps_of_dbos_and_a_child(serve: Serve, control: Control) -> None:
    serve()
    flow, run_id = DBOSFlow(flow_name=unique("flow"), orig_flow=Pipeline), unique("flow")
    with SetWorkflowID(run_id):
        flow.kickoff()
    run = control.run(run_id)
    draft, publish = run.children
    assert (draft.kind, draft.name, draft.state) == ("method", "method:draft", "done")
    assert names(draft.children) == [
        "step:own_effect",
        "pressed",
        ("crew:crew", [("task:1.find", [("agent:Clerk", ["llm"])])]),
    ]
    (started,) = publish.children
    below = control.run(started.path)
    assert (below.parent, below.kind, started.kind) == (run_id, "workflow", "workflow")
    assert run.tokens.requests == 1


def test_items_are_found_from_their_batch(serve: Serve, control: Control) -> None:
    serve()
    durable, batch_id = crew("find"), unique("batch")
    with SetWorkflowID(batch_id):
        durable.kickoff_for_each(inputs=[{"n": 1}, {"n": 2}])
    run = control.run(batch_id)
    assert [(n.path, n.kind, n.state) for n in run.children] == [
        (f"{batch_id}/1", "crew", "done"),
        (f"{batch_id}/2", "crew", "done"),
    ]
    assert run.tokens.requests == 2
    assert control.run(f"{batch_id}/2").parent == batch_id


def test_a_call_that_failed_and_was_made_again(serve: Serve, control: Control) -> None:
    answers = itertools.chain(["busy"], itertools.repeat("ok"))

    def script(_: Request) -> Reply:
        return error(status=503, message="Busy.") if next(answers) == "busy" else text("done")

    serve(script)
    durable = DBOSCrew(
        crew_name=unique("again"),
        orig_crew=crew_of("find"),
        llm_step_config=StepConfig(retries_allowed=True, max_attempts=3, interval_seconds=0.01),
    )
    run_id = unique("again")
    with SetWorkflowID(run_id):
        durable.kickoff()
    (call,) = [node for node in every(control.run(run_id).children) if node.kind == "llm"]
    assert (call.attempts, call.state, call.error) == (2, "done", None)


@tool("broken")
def broken() -> str:
    """Break."""
    raise RuntimeError("out of paper")


def test_a_tool_that_failed_in_a_run_that_went_on(serve: Serve, control: Control) -> None:
    def script(request: Request) -> Reply:
        return text("done") if request.tool_results else tool_calls(ToolCall("broken", {}))

    serve(script)
    durable, run_id = crew("find", tools=[broken]), unique("broken")
    with SetWorkflowID(run_id):
        durable.kickoff()
    run = control.run(run_id)
    (task,) = run.children
    failed = [node for node in every(run.children) if node.state == "failed"]
    assert [(node.kind, node.error) for node in failed] == [("tool", "RuntimeError: out of paper")]
    assert (task.state, run.state, run.error) == ("done", "done", None)


def test_a_run_that_failed(serve: Serve, control: Control) -> None:
    serve(lambda r: error(status=400, message="No.") if "second" in r.last_user_text else text("a"))
    durable, run_id = crew("first", "second"), unique("failed")
    with SetWorkflowID(run_id), pytest.raises(Exception, match="No"):
        durable.kickoff()
    run = control.run(run_id)
    first, second = run.children
    assert (run.state, first.state, second.state) == ("failed", "done", "failed")
    assert {node.kind for node in every(second.children) if node.error} == {"agent", "llm"}
    assert "No." in str(run.error)
    assert run.tokens.requests == 1


class Files(Flow):
    @start()
    def file(self) -> str:
        try:
            return str(crew_of("first", "second")().kickoff().raw)
        except Exception:
            return "not filed"


def test_a_crew_that_failed_in_a_method_that_went_on(serve: Serve, control: Control) -> None:
    serve(lambda r: error(status=400, message="No.") if "second" in r.last_user_text else text("a"))
    durable, run_id = DBOSFlow(flow_name=unique("files"), orig_flow=Files), unique("files")
    with SetWorkflowID(run_id):
        assert durable.kickoff() == "not filed"
    run = control.run(run_id)
    states = {node.name: node.state for node in every(run.children) if node.kind != "llm"}
    assert (states["method:file"], states["crew:crew"]) == ("done", "failed")
    assert (states["task:1.first"], states["task:2.second"]) == ("done", "failed")
    told = {row.node.kind for row in timeline(run, {}).rows if row.error}
    assert told == {"llm"}, "where it was raised"
    (method,) = (row for row in timeline(run, {}, run.children[0]).rows if row.depth == 0)
    assert method.error is None
    assert [row.look for row in timeline(run, {}).rows if row.node.kind == "task"] == [
        "done",
        "failed",
    ]


def test_an_error_is_told_around_it_where_it_is_left_out(serve: Serve, control: Control) -> None:
    serve()
    durable, run_id = crew("find"), unique("left-out")
    with SetWorkflowID(run_id):
        durable.kickoff()

    def failed(kind: str, *children: Node) -> Node:
        of_task = kind == "task"
        return Node(kind, kind, kind, "failed", error=None if of_task else "E", children=children)

    def look(*children: Node) -> list[tuple[str, str | None]]:
        rows = timeline(replace(control.run(run_id), children=children), {}).rows
        return [(row.node.kind, row.error) for row in rows if row.node.state == "failed"]

    agent = Node("agent", "agent", "agent", "done")
    many = [Node(f"task:{n}", f"task:{n}", "task", "done", children=(agent,)) for n in range(100)]
    last = failed("task", failed("agent"))
    assert look(failed("crew", last)) == [("crew", None), ("task", None), ("agent", "E")]
    assert look(failed("crew", *many, last)) == [("crew", "E"), ("task", None)]


def test_what_a_run_is_at(serve: Serve, control: Control) -> None:
    release, begun = threading.Event(), threading.Event()

    @tool("wait")
    def wait() -> str:
        """Wait."""
        begun.set()
        assert release.wait(60)
        return "waited"

    def script(request: Request) -> Reply:
        if "second" in request.last_user_text and not request.tool_results:
            return tool_calls(ToolCall("wait", {}))
        return text("done")

    serve(script)
    durable, run_id = crew("first", "second", tools=[wait]), unique("at-work")
    with SetWorkflowID(run_id):
        handle = durable.start()
    try:
        assert begun.wait(60)
        run = control.run(run_id)
        first, second = run.children
        assert (run.state, first.state, second.state) == ("running", "done", "running")
        assert second.seconds is not None
        assert run.tokens.requests == 2
        (listed,) = control.runs(definition=durable.crew_name, state="running")
        assert listed.tokens == run.tokens
    finally:
        release.set()
    handle.get_result()
    assert {node.state for node in every(control.run(run_id).children)} == {"done"}


@DBOS.workflow(name="tree.joined")
def joined(broken_one: bool) -> str:
    pressed()
    made = _CREWS["joined"]
    if broken_one:
        with pytest.raises(Exception, match="No"):
            made.kickoff()
        return "went on"
    return str(made.kickoff().raw)


_CREWS: dict[str, DBOSCrew] = {}


def test_work_in_a_workflow_of_the_users_own(serve: Serve, control: Control) -> None:
    serve()
    _CREWS["joined"] = crew("find")
    run_id = unique("joined")
    with SetWorkflowID(run_id):
        joined(False)
    run = control.run(run_id)
    inside = [("task:1.find", [("agent:Clerk", ["llm"])])]
    assert names(run.children) == ["pressed", (f"crew:{_CREWS['joined'].crew_name}", inside)]
    assert run.kind == "workflow"


def test_joined_work_that_failed(serve: Serve, control: Control) -> None:
    serve(lambda _: error(status=400, message="No."))
    _CREWS["joined"] = crew("find")
    run_id = unique("joined")
    with SetWorkflowID(run_id):
        assert joined(True) == "went on"
    run = control.run(run_id)
    assert run.state == "done"
    assert run.children[1].state == "failed"
    assert "BadRequestError" in str(run.children[1].error)


def test_async_tasks_and_parallel_tools(serve: Serve, control: Control) -> None:
    def script(request: Request) -> Reply:
        if request.tools and not request.tool_results:
            return tool_calls(*(ToolCall("look_up", {"what": w}) for w in ("a", "b")))
        return text("done")

    def build() -> Crew:
        one, two = clerk(role="One", tools=[look_up]), clerk(role="Two", tools=[look_up])
        tasks = [
            Task(description="1", expected_output="x", agent=one, async_execution=True),
            Task(description="2", expected_output="x", agent=two),
        ]
        return Crew(agents=[one, two], tasks=tasks)

    serve(script)
    durable, run_id = DBOSCrew(crew_name=unique("side"), orig_crew=build), unique("side")
    with SetWorkflowID(run_id):
        durable.kickoff()
    run = control.run(run_id)
    assert sorted(node.name for node in run.children) == ["task:1", "task:2"]
    for task in run.children:
        assert sorted(names(task.children[0].children)) == [
            "llm",
            "llm#2",
            "tool:look_up",
            "tool:look_up",
        ]


@pytest.mark.parametrize("release", ["0.1.0", "0.2.0", "0.3.0"])
@pytest.mark.parametrize("program", ["office", "parallel", "native", "react"])
def test_recorded_histories_are_read(
    control: Control, url: str, release: str, program: str
) -> None:
    recorded = json.loads((HISTORIES / release / f"{program}.json").read_text())
    run_id = history.restore(recorded, url)
    try:
        run = control.run(run_id)
    finally:
        DBOS.delete_workflow(run_id, delete_children=True)
    assert run.tokens.requests > 0
    assert (run.kind == "workflow") == (run.definition is None) == (program == "office")
    assert {"llm", "tool"} <= {node.kind for node in every(run.children)}
    assert not any(node.name.startswith(("order", "dbos", "(")) for node in every(run.children))


@pytest.mark.parametrize(
    ("recorded", "state"),
    [
        (["agent:Clerk#1/llm#1", "agent:Clerk#1/given_up#1"], "cancelled"),
        (["agent:Clerk#1/llm#1", "agent:Clerk#1/given_up#1", "agent:Clerk#1/llm#2"], "done"),
    ],
    ids=["given up", "gone on"],
)
def test_work_that_was_given_up(recorded: list[str], state: str) -> None:
    def step(number: int, name: str) -> StoredStep:
        kind = name.rpartition("/")[2].partition("#")[0]
        text = json.dumps({"v": 2, "kind": kind, "seconds": 0.5, "result": None})
        return StoredStep(number, name, text, None, None, number * 1000, number * 1000 + 500)

    steps = [step(number, name) for number, name in enumerate(recorded, 1)]
    row = replace(ROW, name="own", status="SUCCESS")
    (agent,) = nodes(row, "done", steps, [], [], [], lambda stored: stored)
    assert agent.state == state
    assert agent.seconds == len(recorded) - 0.5
