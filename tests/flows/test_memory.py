"""Memory in a flow: what is recorded to have ended has saved all that it remembers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crewai import Crew, Task
from crewai.events import MemorySaveStartedEvent, crewai_event_bus
from crewai.flow.flow import Flow, listen, or_, start
from crewai.flow.human_feedback import human_feedback
from crewai.memory.unified_memory import Memory
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID
from pydantic import BaseModel

import crewai_dbos
from crewai_dbos import DBOSFlow
from crewai_dbos.testing import Reply, Request, ToolCall, structured, text, tool_calls
from crews.scenarios import agent, any_value_of, model
from flows.scenarios import echo, say
from support.names import unique
from support.serving import Serve

KIND = {"scope": "/animals", "categories": ["otters"], "importance": 0.5}


class Slow:
    """An embedder that is still at work when whoever remembers something has returned."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.go_on = threading.Event()

    def __call__(self, texts: list[str]) -> list[list[float]]:
        # Nobody sets it if the save is waited for; then half a second has to do.
        self.go_on.wait(0.5)
        self.texts += texts
        return [[float(t.count(c)) + 0.1 for c in "aeiostr "] for t in texts]


@pytest.fixture
def embedder() -> Slow:
    return Slow()


@pytest.fixture
def memory(tmp_path: Path, embedder: Slow, serve: Serve) -> Callable[[], Memory]:
    return lambda: Memory(llm=model(), embedder=embedder, storage=f"{tmp_path}/memory")


def steps_of(run_id: str) -> list[str]:
    """The entries of a run, without digests."""
    names = [step["function_name"] for step in DBOS.list_workflow_steps(run_id)]
    return ["/".join(p.partition("(")[0] for p in n.split("/")[1:]) for n in names]


def check_in_order(run_id: str, save: str, end: str) -> None:
    """All of a save stands before the end of what began it."""
    steps = steps_of(run_id)
    saves = [at for at, step in enumerate(steps) if save in step]
    assert any(step.endswith(save) for step in steps), steps
    assert max(saves) < steps.index(end), steps


class Nothing(BaseModel):
    id: str = ""
    said: list[str] = []


def test_a_method_has_ended_when_its_saves_have(
    serve: Serve, memory: Callable[[], Memory], embedder: Slow
) -> None:
    class Remembers(Flow[Nothing]):
        @start()
        def one(self) -> None:
            self.remember(["Otters swim.", "Otters sleep."], **KIND)

        @listen(one)
        def two(self) -> list[str]:
            embedder.go_on.set()
            return sorted(match.record.content for match in self.recall("x", depth="shallow"))

    flow = DBOSFlow(flow_name=unique("remembers"), orig_flow=lambda: Remembers(memory=memory()))
    with SetWorkflowID(flow.flow_name):
        assert flow.kickoff() == ["Otters sleep.", "Otters swim."]
    check_in_order(flow.flow_name, "method:one#1/memory.save", "method:one#1/outcome#1")


def test_so_has_one_that_fails_and_one_that_remembers_in_a_memory_of_its_own(
    serve: Serve, memory: Callable[[], Memory], embedder: Slow
) -> None:
    class Fails(Flow[Nothing]):
        @start()
        async def one(self) -> None:
            own.remember_many(["Otters swim."], **KIND)
            raise ValueError("no")

    own = memory()
    flow = DBOSFlow(flow_name=unique("fails"), orig_flow=Fails)
    with pytest.raises(ValueError, match="no"):
        flow.kickoff()
    assert [record.content for record in own.list_records()] == ["Otters swim."]
    assert not embedder.go_on.is_set()


def test_a_method_that_lost_a_race_is_given_up_when_its_saves_have_ended(
    serve: Serve, memory: Callable[[], Memory], embedder: Slow
) -> None:
    begun = asyncio.Event()

    class Racing(Flow[Nothing]):
        @start()
        def begin(self) -> None:
            pass

        @listen(begin)
        async def fast(self) -> str:
            await begun.wait()
            return "fast"

        @listen(begin)
        async def slow(self) -> str:
            self.remember(["Otters swim."], **KIND)
            begun.set()
            await asyncio.Event().wait()
            return "slow"

        @listen(or_(fast, slow))
        def end(self, who: str) -> str:
            return who

    flow = DBOSFlow(flow_name=unique("racing"), orig_flow=lambda: Racing(memory=memory()))
    with SetWorkflowID(flow.flow_name):
        assert flow.kickoff() == "fast"
    check_in_order(flow.flow_name, "method:slow#1/memory.save", "method:slow#1/given_up#1")


def test_a_review_has_ended_when_its_lessons_are_saved(
    serve: Serve, memory: Callable[[], Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lessons(request: Request) -> Reply:
        if request.schema_name == "DistilledLessons":
            return structured({"lessons": ["Be brief."]})
        return structured(any_value_of(request)) if request.schema_name else echo(request)

    class Learning(Flow[Nothing]):
        @start()
        @human_feedback(message="Good?", llm=model(), learn=True)
        def draft(self) -> str:
            return "A draft."

        @listen(draft)
        def send(self, _: Any) -> str:
            return "sent"

    serve(lessons)
    monkeypatch.setattr("builtins.input", lambda *_: "Shorter, please")
    flow = DBOSFlow(flow_name=unique("learning"), orig_flow=lambda: Learning(memory=memory()))
    with SetWorkflowID(flow.flow_name):
        assert flow.kickoff() == "sent"
    check_in_order(flow.flow_name, "memory.save", "method:draft#1/feedback#1")


@pytest.mark.parametrize("how", ["tool", "callback", "step"])
def test_a_tool_a_callback_and_a_step_have_ended_when_their_saves_have(
    how: str, serve: Serve, memory: Callable[[], Memory]
) -> None:
    def kept() -> list[str]:
        return [record.content for record in own.list_records()]

    def note(text: str) -> str:
        """Note something."""
        own.remember_many([text], **KIND)
        return "noted"

    noting = tool("search")(note)
    seen: list[list[str]] = []

    class Notes(Flow[Nothing]):
        @start()
        def one(self) -> None:
            if how == "step":
                crewai_dbos.step(note, "Otters swim.")
                seen.append(kept())
                return
            clerk = agent("Clerk", tools=[noting] if how == "tool" else [])
            task = Task(description="Do", expected_output="It", agent=clerk)
            if how == "callback":
                task.callback = lambda _: note("Otters swim.")
            Crew(agents=[clerk], tasks=[task]).kickoff()

    def script(request: Request) -> Reply:
        if request.offered_tools and not request.tool_results:
            return tool_calls(ToolCall("search", {"text": "Otters swim."}))
        seen.append(kept())
        return text("Done.")

    serve(script)
    own = memory()
    DBOSFlow(flow_name=unique("notes"), orig_flow=Notes).kickoff()
    if how != "callback":
        assert seen[-1] == ["Otters swim."]
    assert kept() == ["Otters swim."]


def test_what_a_method_does_to_memory_is_done_once(
    serve: Serve, memory: Callable[[], Memory], embedder: Slow
) -> None:
    embedder.go_on.set()

    class Tidies(Flow[Nothing]):
        @start()
        def one(self) -> list[Any]:
            store: Any = self.memory
            store.reset()
            self.remember("Otters swim.", **KIND)
            gone = store.forget(scope="/animals")
            self.remember("Otters sleep.", **KIND)
            kept = store.list_records()
            changed = store.update(kept[0].id, content="Otters snore.")
            say("Tidied")
            found = [
                gone,
                [record.content for record in kept],
                changed.content,
                store.list_scopes(),
                store.list_categories(),
                store.info("/animals").record_count,
                store.tree(),
            ]
            say("Looked")
            store.reset_all()
            return [*found, store.list_records()]

    server = serve()
    plain = Tidies(memory=memory()).kickoff()
    assert plain[:3] == [1, ["Otters sleep."], "Otters snore."]
    flow = DBOSFlow(flow_name=unique("tidies"), orig_flow=lambda: Tidies(memory=memory()))
    with SetWorkflowID(flow.flow_name):
        assert flow.kickoff() == plain
    asked, embedded = len(server.requests), len(embedder.texts)
    steps = DBOS.list_workflow_steps(flow.flow_name)
    outcome = next(s for s in steps if s["function_name"].endswith("outcome#1"))
    fork = DBOS.fork_workflow(flow.flow_name, outcome["function_id"]).get_workflow_id()
    assert flow.retrieve(fork).get_result() == plain
    assert (len(server.requests), len(embedder.texts)) == (asked, embedded)


def test_a_handler_that_remembers_while_a_memory_is_saved(
    serve: Serve, memory: Callable[[], Memory], embedder: Slow
) -> None:
    """Saves of one memory come one after the other: the first must not wait for the second."""
    serve()
    embedder.go_on.set()

    class Learning(Flow[Nothing]):
        @start()
        def learn(self) -> str:
            self.remember(["Otters swim."], **KIND)
            return "learned"

    noted: list[str] = []
    with crewai_event_bus.scoped_handlers():

        @crewai_event_bus.on(MemorySaveStartedEvent)
        def note(source: Any, event: Any) -> None:
            if not noted:
                noted.append("once")
                source.remember_many(["a note"], **KIND)

        flow = DBOSFlow(flow_name=unique("learning"), orig_flow=lambda: Learning(memory=memory()))
        assert flow.kickoff() == "learned"
    assert noted == ["once"]
