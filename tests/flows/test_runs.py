"""How runs of a flow are started, found again, refused and stopped."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from crewai.flow.async_feedback.types import HumanFeedbackPending
from crewai.flow.flow import Flow, listen, or_, router, start
from crewai.flow.human_feedback import human_feedback
from crewai.flow.persistence import SQLiteFlowPersistence, persist
from crewai.state.checkpoint_config import CheckpointConfig
from crewai.types.streaming import StreamSession
from dbos import DBOS, SetWorkflowID, SetWorkflowTimeout
from pydantic import BaseModel

import crewai_dbos
from crewai_dbos import (
    ConcurrentRunError,
    DBOSFlow,
    DefinitionError,
    DriftError,
    RunConflictError,
    UnstorableInputError,
    UnstorableValueError,
)
from crewai_dbos.testing import Request, hang, text
from crews.scenarios import agent, model
from flows.scenarios import Report, Sequence, echo, say, stamp
from support.entries import how_many
from support.leaks import left_by
from support.names import unique
from support.replays import check_forks
from support.serving import Serve


class Counted(BaseModel):
    id: str = ""
    count: int = 0


class Small(Flow[Report]):
    @start()
    def one(self) -> str:
        self.state.outline = say(f"One {self.state.topic}")
        return self.state.outline

    @listen(one)
    def two(self, said: str) -> str:
        return say(f"Two {said}")


def durable(flow: Callable[[], Any] = Small, **options: Any) -> DBOSFlow:
    return DBOSFlow(flow_name=unique("flow"), orig_flow=flow, **options)


# Starting and finding again ---------------------------------------------------------------


def test_a_run_is_started_and_retrieved(serve: Serve) -> None:
    server = serve()
    flow = durable()
    run = flow.start({"topic": "otters"})
    assert run.get_result() == "<Two <One otters>>"
    assert run.get_status().status == "SUCCESS"
    assert flow.retrieve(run.workflow_id).get_result() == "<Two <One otters>>"
    assert flow.state.id == run.workflow_id
    assert flow.state.outline == "<One otters>"
    assert len(server.requests) == 2


def test_a_state_that_is_returned_is_found_again(serve: Serve) -> None:
    serve()
    flow = durable(Sequence)
    run = flow.start({"topic": "otters"})
    for found in (run.get_result(), flow.retrieve(run.workflow_id).get_result()):
        assert isinstance(found, Report)
        assert found.topic == "otters"
        assert found.id == run.workflow_id  # type: ignore[attr-defined]


def test_a_result_without_a_json_form_is_the_callers(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    lock = threading.Lock()

    class Locked(Flow[Report]):
        @start()
        def one(self) -> Any:
            say("One")
            return lock

    flow = durable(Locked)
    with SetWorkflowID(flow.flow_name):
        assert flow.kickoff() is lock
    assert "What a run returned is not stored: _thread:lock has no JSON form" in caplog.text
    with SetWorkflowID(f"{flow.flow_name}-async"):
        assert asyncio.run(flow.akickoff()) is lock
    for run in (flow.retrieve(flow.flow_name), flow.start()):
        with pytest.raises(UnstorableValueError, match=r"is done, but .* not stored: _thread:lock"):
            run.get_result()
        assert run.get_status().status == "SUCCESS"
    with SetWorkflowID(flow.flow_name), pytest.raises(UnstorableValueError):
        flow.kickoff()
    assert len(server.requests) == 3


def test_the_same_id_is_the_same_run(serve: Serve) -> None:
    server = serve()
    flow = durable()
    for _ in range(2):
        with SetWorkflowID(f"{flow.flow_name}-once"):
            assert flow.kickoff({"topic": "otters"}) == "<Two <One otters>>"
    assert len(server.requests) == 2
    with (
        pytest.raises(RunConflictError, match="differs in its inputs"),
        SetWorkflowID(f"{flow.flow_name}-once"),
    ):
        flow.kickoff({"topic": "badgers"})


def test_names_show_the_path(serve: Serve) -> None:
    serve()
    flow = durable()
    run = flow.start({"topic": "otters"})
    run.get_result()
    names = [step["function_name"] for step in DBOS.list_workflow_steps(run.workflow_id)]
    assert [name.removeprefix(f"flow:{flow.flow_name}#1/") for name in names] == [
        "definition#1",
        "state#1",
        "method:one#1/llm#1",
        "method:one#1/outcome#1",
        "method:two#1/llm#1",
        "method:two#1/outcome#1",
    ]


def test_an_id_of_the_users_own(serve: Serve) -> None:
    serve()
    flow = durable()
    flow.kickoff({"id": "mine", "topic": "otters"})
    assert flow.state.id == "mine"


def test_a_state_that_persist_has_kept(serve: Serve, tmp_path: Path) -> None:
    serve()
    persistence = SQLiteFlowPersistence(db_path=str(tmp_path / "states.db"))

    @persist(persistence)
    class Counting(Flow[Counted]):
        @start()
        def count(self) -> int:
            self.state.count += 1
            return self.state.count

        @listen(count)
        def tell(self, count: int) -> str:
            return say(f"count {count}")

    flow = durable(Counting)
    said = []
    for number in range(3):
        with SetWorkflowID(f"{flow.flow_name}-{number}"):
            said.append(flow.kickoff({"id": "session"}))
    assert said == ["<count 1>", "<count 2>", "<count 3>"]
    # The second run again, though what it began with has been replaced since.
    for step in DBOS.list_workflow_steps(f"{flow.flow_name}-1"):
        fork = DBOS.fork_workflow(f"{flow.flow_name}-1", step["function_id"] + 1)
        if step["function_name"].endswith("definition#1"):
            continue
        assert fork.get_result() == "<count 2>"


def test_what_a_state_has_gained_meanwhile_is_taken_away(serve: Serve, tmp_path: Path) -> None:
    serve()
    begun: list[list[str]] = []

    @persist(SQLiteFlowPersistence(db_path=str(tmp_path / "states.db")))
    class Growing(Flow):
        @start()
        def one(self) -> str:
            begun.append(sorted(self.state))
            said = say("one")
            self.state["x"] = said
            return said

    flow = durable(Growing)
    with SetWorkflowID(flow.flow_name):
        flow.kickoff({"id": flow.flow_name})
    steps = DBOS.list_workflow_steps(flow.flow_name)
    first = next(s for s in steps if s["function_name"].endswith("/llm#1"))
    DBOS.fork_workflow(flow.flow_name, first["function_id"] + 1).get_result()
    assert begun == [["id"], ["id"]]


def test_a_setting_that_a_method_made_is_restored(serve: Serve) -> None:
    class Longer(Flow[Counted]):
        max_method_calls: int = 20

        @start()
        def begin(self) -> None:
            self.max_method_calls = 40
            say("begin")

        @listen(or_(begin, "again"))
        def count(self) -> None:
            self.state.count += 1

        @router(count)
        def enough(self) -> str:
            return "again" if self.state.count < 30 else "done"

        @listen("done")
        def end(self) -> int:
            return self.state.count

    serve()
    flow = durable(Longer)
    with SetWorkflowID(flow.flow_name):
        assert flow.kickoff() == 30
    steps = DBOS.list_workflow_steps(flow.flow_name)
    assert DBOS.fork_workflow(flow.flow_name, steps[4]["function_id"]).get_result() == 30


def test_a_class_that_derives_from_a_flow_is_what_crewai_makes_of_it(serve: Serve) -> None:
    class Derived(Small):
        @start()
        def other(self) -> str:
            return say("other")

    serve()
    flow = durable(Derived)
    expected = Derived().kickoff({"topic": "otters"})
    assert flow.kickoff({"topic": "otters"}) == expected


def test_ordinary_crewai_is_as_before_afterwards(serve: Serve) -> None:
    server = serve()
    durable().kickoff({"topic": "otters"})
    before = len(DBOS.list_workflows())
    assert say("plain") == "<plain>"
    assert Small().kickoff({"topic": "plain"}) == "<Two <One plain>>"

    @DBOS.workflow(name=unique("plain"))
    def uses() -> str:
        return say("in a workflow")

    with SetWorkflowID(unique("plain")):
        handle = DBOS.start_workflow(uses)
    assert handle.get_result() == "<in a workflow>"
    assert not DBOS.list_workflow_steps(handle.workflow_id)
    assert len(DBOS.list_workflows()) == before + 1
    assert len(server.requests) == 6


@pytest.mark.some_entries
def test_many_kickoffs_leave_no_thread_and_little_memory(serve: Serve) -> None:
    server = serve()
    flow = durable()

    def kick_off(times: int) -> None:
        for number in range(times):
            flow.kickoff({"topic": f"topic {number}"})

    runs = how_many(8, 15)
    kick_off(runs)
    threads = threading.active_count()
    assert left_by(server, lambda: kick_off(runs), runs) == {}
    # A pool of crewAI's may not have been full.
    assert threading.active_count() < threads + 15


def test_on_a_queue(serve: Serve) -> None:
    serve()
    flow = durable()
    queue = f"queue-{flow.flow_name}"
    DBOS.register_queue(queue, concurrency=1)
    runs = [flow.start({"topic": str(number)}, queue=queue) for number in range(3)]
    assert [run.get_result() for run in runs] == [f"<Two <One {n}>>" for n in range(3)]


def test_in_a_workflow_of_the_users(serve: Serve) -> None:
    server = serve()
    flow = durable()

    @DBOS.workflow(name=f"uses-{flow.flow_name}")
    def uses() -> list[str]:
        before = stamp("before")
        said = [flow.kickoff({"topic": topic}) for topic in ("a", "b")]
        return [before, *said, stamp("after")]

    with SetWorkflowID(f"in-{flow.flow_name}"):
        expected = uses()
    assert expected[1:3] == ["<Two <One a>>", "<Two <One b>>"]
    steps = DBOS.list_workflow_steps(f"in-{flow.flow_name}")
    asked = len(server.requests)
    fork = DBOS.fork_workflow(f"in-{flow.flow_name}", steps[-1]["function_id"] + 1)
    assert fork.get_result() == expected
    assert len(server.requests) == asked


@pytest.mark.some_entries
def test_many_kickoffs_at_once(serve: Serve) -> None:
    serve()
    flow = durable()
    number = how_many(10, 32)
    with ThreadPoolExecutor(number) as pool:
        said = list(pool.map(lambda n: flow.kickoff({"topic": str(n)}), range(number)))
    assert said == [f"<Two <One {n}>>" for n in range(number)]


def test_a_stream(serve: Serve) -> None:
    def build() -> Any:
        flow = Small()
        flow.stream = True
        return flow

    serve()
    flow = durable(build)
    with SetWorkflowID(f"{flow.flow_name}-stream"):
        session = flow.kickoff({"topic": "otters"})
    assert isinstance(session, StreamSession)
    kinds = {type(frame).__name__ for frame in session}
    assert kinds
    assert session.result == "<Two <One otters>>"
    run = flow.retrieve(f"{flow.flow_name}-stream")
    assert run.get_result() == "<Two <One otters>>"


def test_the_plot_is_that_of_the_flow(tmp_path: Path, launched: None) -> None:
    page = Path(durable().plot(str(tmp_path / "flow.html"), show=False))
    assert "one" in page.read_text()


# The end ----------------------------------------------------------------------------------


def test_an_error_of_a_method_is_the_runs(serve: Serve) -> None:
    class Failing(Flow[Report]):
        @start()
        def one(self) -> None:
            say("one")
            raise KeyError("no such otter")

    serve()
    flow = durable(Failing)
    with pytest.raises(KeyError, match="no such otter"), SetWorkflowID(flow.flow_name):
        flow.kickoff()
    run = flow.retrieve(flow.flow_name)
    assert run.get_status().status == "ERROR"
    with pytest.raises(KeyError, match="no such otter"):
        run.get_result()


def test_a_cancelled_run_ends_and_is_resumed(serve: Serve) -> None:
    held = hang(text("Late."))

    def script(request: Request) -> Any:
        return held if request.last_user_text.startswith("Two") else echo(request)

    server = serve(script)

    class Longer(Small):
        @start()
        def one(self) -> str:
            return say(f"One {self.state.topic}")

        @listen(one)
        def two(self, said: str) -> str:
            return say(f"Two {said}")

        @listen(two)
        def three(self, said: str) -> str:
            return say(f"Three {said}")

    flow = durable(Longer)
    run = flow.start({"topic": "otters"})
    held.wait_until_held()
    DBOS.cancel_workflow(run.workflow_id)
    held.release()
    with pytest.raises(Exception, match="cancelled"):
        run.get_result()
    asked = [request.last_user_text for request in server.requests]
    assert asked == ["One otters", "Two <One otters>"]
    DBOS.resume_workflow(run.workflow_id)
    assert run.get_result() == "<Three Late.>"
    asked = [request.last_user_text for request in server.requests]
    assert asked.count("One otters") == 1


def test_a_deadline_ends_a_run(serve: Serve) -> None:
    class Slow(Flow[Report]):
        @start()
        def one(self) -> None:
            for number in range(200):
                say(f"number {number}")
                DBOS.sleep(0.05)

    serve()
    flow = durable(Slow)
    with SetWorkflowTimeout(1.0), pytest.raises(BaseException, match=r"cancelled|timed out"):
        flow.kickoff()


def test_a_run_that_waits_for_a_person_elsewhere(serve: Serve, tmp_path: Path) -> None:
    asked: list[str] = []

    class Elsewhere:
        def request_feedback(self, context: Any, flow: Any) -> str:
            asked.append(str(context.method_output))
            raise HumanFeedbackPending(context, {"channel": "#reviews"})

    class Waiting(Flow[Report]):
        @start()
        @human_feedback(message="Good?", provider=Elsewhere())
        def one(self) -> str:
            return say("one")

    serve()
    flow = durable(Waiting)
    with SetWorkflowID(flow.flow_name):
        pending = flow.kickoff()
    found = flow.retrieve(flow.flow_name).get_result()
    for each in (pending, found):
        assert isinstance(each, HumanFeedbackPending)
        assert each.callback_info == {"channel": "#reviews"}
        assert each.context.method_output == "<one>"
    assert asked == ["<one>"]

    # The ordinary class goes on with it, as crewAI does.
    with pytest.raises(DefinitionError, match=r"by its own class: .*from_pending"):
        DBOSFlow.from_pending(flow.flow_name)
    assert Waiting.from_pending(flow.flow_name).resume("Yes.").feedback == "Yes."


def test_an_agent_with_a_checkpoint_in_a_method_is_crewais(serve: Serve, tmp_path: Path) -> None:
    """Its requests are recorded, and it is the agent of the method that writes checkpoints."""
    given, clerk = CheckpointConfig(location=str(tmp_path)), agent("Clerk")

    class Checked(Flow[Report]):
        @start()
        def one(self) -> str:
            said: str = clerk.kickoff("One", from_checkpoint=given).raw
            return said

    server = serve()
    flow = durable(Checked)
    with SetWorkflowID(flow.flow_name):
        expected = flow.kickoff()
    assert clerk.checkpoint == given
    requests = len(server.requests)
    last = DBOS.list_workflow_steps(flow.flow_name)[-1]["function_id"]
    again = DBOS.fork_workflow(flow.flow_name, last).get_workflow_id()
    assert flow.retrieve(again).get_result() == expected
    assert len(server.requests) == requests == 1


class Elsewhere:
    def request_feedback(self, context: Any, flow: Any) -> str:
        raise HumanFeedbackPending(context, {"channel": "#reviews"})


def test_what_a_person_elsewhere_is_asked_about_is_what_the_method_returned(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    lock, model = threading.Lock(), Counted(id="a", count=3)
    returned: list[Any] = []

    class Waiting(Flow[Report]):
        @start()
        @human_feedback(message="Good?", provider=Elsewhere(), metadata={"due": (1, 2)})
        def one(self) -> Any:
            return returned[-1]

    @DBOS.workflow(name=unique("waiting"))
    def workflow() -> Any:
        return flow.kickoff().context.method_output

    serve()
    # Of what has no JSON form there is the text that crewAI makes of it.
    for value, expected in ((lock, str(lock)), (model, model)):
        returned.append(value)
        flow = durable(Waiting)
        with SetWorkflowID(flow.flow_name):
            pending = flow.kickoff()
        for each in (pending, flow.retrieve(flow.flow_name).get_result()):
            assert each.context.method_output == expected
            assert each.context.metadata == {"due": (1, 2)}
    assert workflow() == model
    (warning,) = [text for text in caplog.messages if "asked about" in text]
    assert "returned as crewAI's own store keeps it: _thread:lock has no JSON form" in warning


@pytest.mark.some_entries
def test_a_person_at_the_console_is_asked_once(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Read(Flow[Report]):
        @start()
        @human_feedback(message="Is it good?")
        def draft(self) -> str:
            return say("Draft")

        @listen(draft)
        def end(self, feedback: Any) -> str:
            return say(f"{feedback.feedback} {feedback.output}")

    typed: list[str] = []

    def typing(*_: Any) -> str:
        typed.append("Fine.")
        return typed[-1]

    monkeypatch.setattr("builtins.input", typing)

    def answers() -> int:
        return len(typed)

    server = serve()
    flow = durable(Read)
    run = flow.start()
    assert run.get_result() == "<Fine. <Draft>>"
    assert answers() == 1
    check_forks(
        run.workflow_id,
        server,
        lambda fork: flow.retrieve(fork).get_result(),
        "<Fine. <Draft>>",
        did={"asked": 1},
        again=lambda: Counter(asked=answers() - 1),
    )


# What is refused --------------------------------------------------------------------------


def test_definitions_that_can_mean_nothing(launched: None) -> None:
    with pytest.raises(DefinitionError, match="not an instance"):
        durable(Small())  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="returns a flow"):
        durable(lambda: 3)
    with pytest.raises(DefinitionError, match="non-empty"):
        DBOSFlow(flow_name=" ", orig_flow=Small)
    flow = durable()
    with pytest.raises(DefinitionError, match="defined already"):
        DBOSFlow(flow_name=flow.flow_name, orig_flow=Small)
    with pytest.raises(DefinitionError, match="is a DBOSFlow already"):
        durable(flow)


def test_inputs_that_no_process_could_rebuild(serve: Serve) -> None:
    server = serve()
    with pytest.raises(UnstorableInputError, match="inputs can't be stored"):
        durable().kickoff({"topic": threading.Lock()})
    assert not server.requests


def test_in_an_event_loop(serve: Serve) -> None:
    serve()
    flow = durable()
    topic = {"topic": "otters"}

    async def notebook() -> list[Any]:
        # A sync kickoff blocks the loop, as crewAI's does.
        return [flow.kickoff(topic), await flow.kickoff_async(topic)]

    assert asyncio.run(notebook()) == ["<Two <One otters>>"] * 2

    @DBOS.workflow(name=unique("blocking"))
    async def workflow() -> Any:
        return flow.kickoff(topic)

    with pytest.raises(RuntimeError, match="inside an event loop, which would wait for it"):
        asyncio.run(workflow())


@pytest.mark.parametrize("how", ["tasks", "threads", "clock"])
def test_dbos_operations_that_only_their_order_would_tell_apart(how: str, serve: Serve) -> None:
    made: list[str] = []

    @DBOS.step()
    async def pack(what: str) -> str:
        made.append(what)
        return what

    class Crowd(Flow[Report]):
        @start()
        async def one(self) -> None:
            if how == "tasks":
                await asyncio.gather(pack("a"), pack("b"))
            elif how == "threads":
                await asyncio.gather(*(asyncio.to_thread(stamp, what) for what in "ab"))
            else:
                await asyncio.gather(*(asyncio.to_thread(crewai_dbos.now) for _ in "ab"))

    serve()
    with pytest.raises(ConcurrentRunError, match="asyncio task than its own"):
        durable(Crowd).kickoff()
    assert not made


# Changed code -----------------------------------------------------------------------------


class Changing:
    """A flow whose class is another one from now on."""

    def __init__(self, first: Any) -> None:
        self.cls = first
        self.flow = durable(lambda: self.cls())

    def forked(self, run_id: str, method: str) -> Any:
        """The run again, from the first entry of `method`."""
        steps = DBOS.list_workflow_steps(run_id)
        step = min(s["function_id"] for s in steps if f"method:{method}#" in s["function_name"])
        return self.flow.retrieve(DBOS.fork_workflow(run_id, step).get_workflow_id())


class OtherText(Flow[Report]):
    @start()
    def one(self) -> str:
        return say("something else")

    @listen(one)
    def two(self, said: str) -> str:
        return say(f"Finally {said}")


class OtherTrigger(Flow[Report]):
    @start()
    def one(self) -> str:
        return say("one")

    @start()
    def two(self) -> str:
        return say("two")


def test_what_a_method_does_may_change(serve: Serve) -> None:
    server = serve()
    changing = Changing(Small)
    run = changing.flow.start({"topic": "otters"})
    run.get_result()
    changing.cls = OtherText
    before = len(server.requests)
    assert changing.forked(run.workflow_id, "two").get_result() == "<Finally <One otters>>"
    assert len(server.requests) == before + 1


def test_another_structure_stops_the_run(serve: Serve) -> None:
    server = serve()
    changing = Changing(Small)
    run = changing.flow.start({"topic": "otters"})
    run.get_result()
    changing.cls = OtherTrigger
    before = len(server.requests)
    steps = DBOS.list_workflow_steps(run.workflow_id)
    fork_id = DBOS.fork_workflow(run.workflow_id, steps[-1]["function_id"]).get_workflow_id()
    fork = changing.flow.retrieve(fork_id)
    with pytest.raises(DriftError, match="start of method 'two' was None and is True"):
        fork.get_result()
    assert len(server.requests) == before
    assert fork.get_status().status == "CANCELLED"
    changing.cls = Small
    DBOS.resume_workflow(fork_id)
    assert fork.get_result() == "<Two <One otters>>"


class OfATaskGroup(BaseException):
    """What `asyncio.TaskGroup`, new in Python 3.11, makes of the end of a run: no `Exception`."""


class Grouped(Flow):
    stamped = True

    @start()
    async def begin(self) -> str:
        try:
            if self.stamped:
                crewai_dbos.now()
            return str(await model().acall("grouped"))
        except BaseException as error:
            raise OfATaskGroup from error


def test_a_run_stops_whatever_its_end_is_wrapped_in(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve()
    flow = durable(Grouped)
    run = flow.start()
    assert run.get_result() == "<grouped>"
    monkeypatch.setattr(Grouped, "stamped", False)
    last = DBOS.list_workflow_steps(run.workflow_id)[-1]
    fork_id = DBOS.fork_workflow(run.workflow_id, last["function_id"]).get_workflow_id()
    fork = flow.retrieve(fork_id)
    with pytest.raises(DriftError, match=r"next comes .*now#1"):
        fork.get_result()
    assert fork.get_status().status == "CANCELLED"
    monkeypatch.setattr(Grouped, "stamped", True)
    DBOS.resume_workflow(fork_id)
    assert fork.get_result() == "<grouped>"


# What can't be stored ---------------------------------------------------------------------


class Handle:
    def __init__(self) -> None:
        self.lock = threading.Lock()


class Kept(BaseModel):
    model_config = {"arbitrary_types_allowed": True}

    handle: Handle | None = None
    said: str = ""


def test_what_cannot_be_stored_is_said_at_once(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    class Opaque(Flow[Kept]):
        @start()
        def one(self) -> None:
            self.state.handle = Handle()
            self.state.said = say("one")

        @listen(one)
        def two(self) -> str:
            assert self.state.handle is not None
            return say(f"two {self.state.said}")

    server = serve()
    flow = durable(Opaque)
    with caplog.at_level(logging.WARNING, "crewai_dbos"):
        run = flow.start()
        assert run.get_result() == "<two <one>>"
    assert any("self.state.handle" in record.message for record in caplog.records)
    before = len(server.requests)
    steps = DBOS.list_workflow_steps(run.workflow_id)
    for step in steps[-2:]:
        fork = DBOS.fork_workflow(run.workflow_id, step["function_id"] + 1).get_workflow_id()
        assert flow.retrieve(fork).get_result() == "<two <one>>"
    assert len(server.requests) == before


def test_a_key_is_not_stored(serve: Serve) -> None:
    serve()

    class WithModel(Flow[Report]):
        @start()
        def one(self) -> str:
            self.llm = model(api_key="sk-very-secret")
            return str(self.llm.call("one"))

        @listen(one)
        def two(self, said: str) -> str:
            return str(self.llm.call(f"two {said}"))

    flow = durable(WithModel)
    run = flow.start()
    assert run.get_result() == "<two <one>>"
    steps = DBOS.list_workflow_steps(run.workflow_id)
    assert "sk-very-secret" not in str(steps)
    fork = DBOS.fork_workflow(run.workflow_id, steps[-1]["function_id"]).get_workflow_id()
    assert flow.retrieve(fork).get_result() == "<two <one>>"


class Missing(Flow[Any]):
    @start()
    def look(self) -> Any:
        return {}["nothing"]


def test_the_log_of_dbos_shows_an_error_as_it_was_raised(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    serve()
    lines: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler = QueueHandler(lines)
    of_dbos = logging.getLogger("dbos")
    of_dbos.addHandler(handler)
    try:
        with caplog.at_level(logging.ERROR, "dbos"):
            with pytest.raises(KeyError):
                durable(Missing).start().get_result()
            told = lines.get(timeout=30).getMessage()  # written after the run's end is stored
    finally:
        of_dbos.removeHandler(handler)
    assert 'return {}["nothing"]' in told
    assert told.endswith("\nKeyError: 'nothing'")
    assert "crewai_dbos" not in told
