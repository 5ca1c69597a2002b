"""What we touch of the inside of crewAI's flows is there and does what we take it to do."""

from __future__ import annotations

import asyncio
import inspect
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from crewai import flow as package
from crewai.flow.conversational import ConversationConfig, ConversationState
from crewai.flow.flow import Flow, and_, listen, or_, router, start
from crewai.flow.flow_context import current_flow_method_name
from crewai.flow.human_feedback import human_feedback
from crewai.flow.persistence import SQLiteFlowPersistence, persist
from crewai.memory.recall_flow import RecallFlow
from crewai.tools import BaseTool
from crewai.types.usage_metrics import UsageMetrics
from pydantic import BaseModel

from crewai_dbos._crewai_seam.flow import checkpoint_for_ask, streaming_turn
from crewai_dbos._flows import people
from crewai_dbos._flows.progress import depth
from crewai_dbos._flows.run_flow import _RunFlow
from crewai_dbos._flows.state.fields import OF_THE_ENGINE
from crewai_dbos._flows.turns import SETTLE


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


# What a flow keeps, and where ------------------------------------------------------------


class Count(BaseModel):
    count: int = 0


class Counting(Flow[Count]):
    @start()
    def one(self) -> int:
        self.state.count += 1
        return self.state.count


def test_a_flow_keeps_its_state_where_we_look_for_it() -> None:
    assert set(Flow.__private_attributes__) >= {
        "_aggregated_usage_metrics",
        "_cel_now",
        "_definition",
        "_deferred_flow_started_event_id",
        "_human_feedback_method_outputs",
        "_input_history",
        "_instance_persistence",
        "_methods",
        "_state",
    }
    flow: Any = Counting()
    assert flow.kickoff() == 1
    assert flow._state.count == flow.state.count == 1
    assert flow._cel_now is not None
    assert set(flow._methods) == set(flow._definition.methods) == {"one"}
    assert Counting._initial_state_t is Count
    flow._aggregated_usage_metrics.add_usage_metrics(UsageMetrics(total_tokens=7))
    assert flow.usage_metrics.total_tokens == 7


def test_a_flow_says_which_persistence_was_given_to_it(tmp_path: Path) -> None:
    kept = SQLiteFlowPersistence(db_path=str(tmp_path / "states.db"))
    assert Counting(persistence=kept)._instance_persistence is True
    assert Counting()._instance_persistence is False


def test_the_state_is_saved_before_somebody_is_asked(tmp_path: Path) -> None:
    kept = SQLiteFlowPersistence(db_path=str(tmp_path / "states.db"))
    flow: Any = Flow[dict[str, Any]](persistence=kept)
    flow.state["count"] = 5
    checkpoint_for_ask(flow)
    assert (kept.load_state(flow.state["id"]) or {})["count"] == 5


def test_what_the_engine_keeps_on_a_flow_is_what_we_take_for_its_own() -> None:
    folder = Path(package.__path__[0])
    source = "".join(path.read_text() for path in folder.rglob("*.py"))
    assert {name for name in OF_THE_ENGINE if re.search(rf"\b{name}\b", source)} == OF_THE_ENGINE
    assert RecallFlow.__private_attributes__["_skip_auto_memory"].default is True


class Search(BaseTool):
    name: str = "search"
    description: str = "Search for something."

    def _run(self, query: str) -> str:
        return f"found {query}"


def test_the_tools_of_a_declared_flow_lie_where_the_doctor_looks(tmp_path: Path) -> None:
    tool = {"call": "tool", "ref": f"{__name__}:Search", "with": {"query": "otters"}}
    declared = {"name": "Declared", "methods": {"find": {"start": True, "do": tool}}}
    (tmp_path / "flow.yaml").write_text(yaml.safe_dump(declared))
    flow = Flow.from_declaration(path=tmp_path / "flow.yaml")
    assert [type(tool) for tool in vars(flow)["_tool_action_tools"]] == [Search]


def test_a_conversation_is_told_from_another_flow() -> None:
    assert Counting()._is_conversational_enabled() is False


def test_a_turn_of_a_conversation_streams() -> None:
    @ConversationConfig(llm="openai/gpt-4o-mini")
    class Talking(Flow[ConversationState]):
        """Says something."""

    flow: Any = Talking()
    assert flow._streaming_conversation_turn is False
    with streaming_turn(flow):
        assert flow._streaming_conversation_turn is True
    assert flow._streaming_conversation_turn is False


# What the engine calls -------------------------------------------------------------------


def test_a_flow_has_the_methods_that_we_override() -> None:
    overridden = {name for name in vars(_RunFlow) if not name.startswith("__")}
    assert overridden == {
        "_execute_method",
        "_execute_single_listener",
        "_persist_method_completion",
        "_request_human_feedback",
        "_resolve_feedback_provider",
        "_run_human_feedback_step",
        "ask",
    }
    assert parameters(Flow._execute_method) == ["method_name", "method", "args", "kwargs"]
    assert parameters(Flow._persist_method_completion) == ["method_name"]
    assert parameters(Flow._resolve_feedback_provider) == ["feedback_definition"]
    assert parameters(Flow.ask)[0] == "message"
    for name in ("_execute_method", "_execute_single_listener", "_run_human_feedback_step"):
        assert inspect.iscoroutinefunction(getattr(Flow, name))
    for name in ("_persist_method_completion", "_request_human_feedback", "ask"):
        assert not inspect.iscoroutinefunction(getattr(Flow, name))


class Told:
    """Overrides, as ours, that tell of each call."""

    calls: list[str]

    async def _execute_single_listener(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append("_execute_single_listener")
        return await super()._execute_single_listener(*args, **kwargs)  # type: ignore[misc]

    async def _execute_method(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append("_execute_method")
        return await super()._execute_method(*args, **kwargs)  # type: ignore[misc]

    async def _run_human_feedback_step(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append("_run_human_feedback_step")
        return await super()._run_human_feedback_step(*args, **kwargs)  # type: ignore[misc]

    def _resolve_feedback_provider(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append("_resolve_feedback_provider")
        return super()._resolve_feedback_provider(*args, **kwargs)  # type: ignore[misc]

    def _request_human_feedback(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append("_request_human_feedback")
        return super()._request_human_feedback(*args, **kwargs)  # type: ignore[misc]

    def _persist_method_completion(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append("_persist_method_completion")
        return super()._persist_method_completion(*args, **kwargs)  # type: ignore[misc]


class Echo:
    def request_input(self, message: str, flow: Any, metadata: Any = None) -> str:
        return f"{message} Yes."


def test_a_flow_says_who_is_asked() -> None:
    echo: Any = Echo()
    assert people.is_terminal(Counting()._resolve_input_provider())
    assert Counting(input_provider=echo)._resolve_input_provider() is echo
    assert "self._resolve_input_provider()" in inspect.getsource(Flow.ask)


def test_the_engine_calls_each_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @persist(SQLiteFlowPersistence(db_path=str(tmp_path / "states.db")))
    class Reviewed(Told, Flow[Count]):
        input_provider: Any = Echo()

        @start()
        @human_feedback(message="Is it good?")
        def one(self) -> str:
            return str(self.ask("Ready?"))

        @listen(one)
        def two(self, feedback: Any) -> str:
            return str(feedback.feedback)

    monkeypatch.setattr(sys, "stdin", io.StringIO("Fine.\n"))
    object.__setattr__(flow := Reviewed(), "calls", [])
    assert flow.kickoff() == "Fine."
    assert flow.calls == [
        "_execute_method",
        "_run_human_feedback_step",
        "_resolve_feedback_provider",
        "_request_human_feedback",
        "_persist_method_completion",
        "_execute_single_listener",
        "_execute_method",
        "_persist_method_completion",
    ]
    asked: Any = flow._input_history
    assert [(each["message"], each["response"]) for each in asked] == [("Ready?", "Ready? Yes.")]
    assert set(asked[0]) == {
        "message", "response", "method_name", "timestamp", "metadata", "response_metadata",
    }  # fmt: skip
    assert asked[0]["method_name"] == "one"
    assert current_flow_method_name.get("unknown") == "unknown"


def test_the_outcome_of_a_review_goes_past_what_the_method_returned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    class Routed(Flow[Count]):
        async def _run_human_feedback_step(self, *args: Any, **kwargs: Any) -> Any:
            result = await super()._run_human_feedback_step(*args, **kwargs)
            seen.extend([result, dict(self._human_feedback_method_outputs)])
            return result

        @start()
        @human_feedback(
            message="Good?", emit=["good", "bad"], default_outcome="bad", llm="gpt-4o-mini"
        )
        def one(self) -> str:
            return "a draft"

        @listen("bad")
        def again(self) -> str:
            return "again"

    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert Routed().kickoff() == "again"
    result, stashed = seen
    assert result == "bad"
    assert {name: each.output for name, each in stashed.items()} == {"one": "a draft"}


# How fast it acts ------------------------------------------------------------------------


class Paced(Flow[Count]):
    """Counts the passes of the loop between an end of a method and what the engine then does.

    Attributes:
        passes: How many there were each time, with how many `Turns` would have waited.
    """

    async def _execute_single_listener(self, *args: Any, **kwargs: Any) -> Any:
        token = depth.set(depth.get() + 1)
        try:
            return await super()._execute_single_listener(*args, **kwargs)
        finally:
            depth.reset(token)

    async def _execute_method(self, *args: Any, **kwargs: Any) -> Any:
        counting: dict[str, int] = self.__dict__.setdefault("counting", {})
        if "since" in counting:
            pair = counting["since"], counting["granted"]
            self.__dict__.setdefault("passes", []).append(pair)
        counting.clear()
        try:
            return await super()._execute_method(*args, **kwargs)
        finally:
            counting.update(since=0, granted=2 * depth.get() + SETTLE)
            asyncio.get_running_loop().call_soon(_passed, counting)


def _passed(counting: dict[str, int]) -> None:
    # Without an end: a flow that is over has no loop either.
    if "since" in counting:
        counting["since"] += 1
        asyncio.get_running_loop().call_soon(_passed, counting)


def chain(length: int) -> type[Paced]:
    """A flow of that many methods, each the listener of the one before."""

    def method(self: Any) -> None:
        self.state.count += 1

    body: dict[str, Any] = {"m0": start()(_named(method, "m0")), "__module__": __name__}
    for number in range(1, length):
        body[f"m{number}"] = listen(f"m{number - 1}")(_named(method, f"m{number}"))
    return type("Chain", (Paced,), body)


def _named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def named(self: Any) -> Any:
        return function(self)

    named.__name__ = named.__qualname__ = name
    return named


class Joined(Paced):
    @start()
    def one(self) -> None: ...

    @start()
    async def two(self) -> None: ...

    @listen(and_(one, two))
    def both(self) -> None: ...

    @listen(or_(one, both))
    def either(self) -> None: ...


class Rounds(Paced):
    @start("again")
    def draft(self) -> None:
        self.state.count += 1

    @router(draft)
    async def enough(self) -> str:
        return "done" if self.state.count == 3 else "again"

    @listen("done")
    def end(self) -> None: ...


class Reviews(Paced):
    @start()
    @human_feedback(message="Good?")
    def draft(self) -> None: ...

    @listen(draft)
    def end(self) -> None: ...


class Dawdling(Paced):
    @start()
    def one(self) -> None: ...

    @listen(one)
    def two(self) -> None: ...

    async def _execute_listeners(self, *args: Any, **kwargs: Any) -> Any:
        for _ in range(2 * SETTLE):
            await asyncio.sleep(0)
        return await super()._execute_listeners(*args, **kwargs)


def passes_of(flow: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Fine.\n"))
    flow.kickoff()
    found: list[tuple[int, int]] = flow.__dict__["passes"]
    return found


@pytest.mark.parametrize("flow", [chain(3), chain(12), Joined, Rounds, Reviews])
def test_the_engine_acts_within_the_passes_of_the_loop_that_it_is_granted(
    flow: type[Paced], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(took < granted for took, granted in passes_of(flow(), monkeypatch))


def test_an_engine_that_needs_more_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert any(took > granted for took, granted in passes_of(Dawdling(), monkeypatch))
