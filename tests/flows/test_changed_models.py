"""Runs that go on when models and states have other fields than when they began."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from crewai.flow.flow import Flow, listen, start
from crewai.flow.persistence import SQLiteFlowPersistence, persist
from dbos import DBOS, SetWorkflowID
from pydantic import AliasChoices, BaseModel, Field

from crewai_dbos import DBOSFlow
from flows.scenarios import say
from support.names import unique
from support.serving import Serve


class Item(BaseModel):
    name: str


class LaterItem(BaseModel):
    name: str
    tags: list[str] = Field(default_factory=list)


@dataclass
class Job:
    name: str


@dataclass
class LaterJob:
    name: str
    tags: list[str] = field(default_factory=list)


class State(BaseModel):
    items: list[Item] = []
    jobs: list[Any] = []
    dropped: int = 0
    old: int = 0


class LaterState(BaseModel):
    items: list[LaterItem] = []
    jobs: list[Any] = []
    priority: int = 3
    new: int = Field(default=0, validation_alias=AliasChoices("new", "old"))


def deploy(monkeypatch: pytest.MonkeyPatch, *classes: type) -> None:
    """`classes` are called from now on as those that they follow."""
    for cls in classes:
        name = cls.__name__.removeprefix("Later")
        cls.__qualname__ = name
        monkeypatch.setattr(sys.modules[__name__], name, cls)


class Release:
    """A flow whose factory builds another version of it from now on."""

    def __init__(self, first: Callable[[], Any]) -> None:
        self.build = first
        self.flow = DBOSFlow(flow_name=unique("changing"), orig_flow=lambda: self.build())

    def run(self, inputs: dict[str, Any] | None = None) -> Any:
        with SetWorkflowID(self.flow.flow_name):
            return self.flow.kickoff(inputs)

    def forks(self) -> list[Any]:
        """What forks come to from each entry that follows the state that the run began with."""
        steps = DBOS.list_workflow_steps(self.flow.flow_name)
        ends = [s["function_id"] + 1 for s in steps if "method:" in s["function_name"]]
        forks = [DBOS.fork_workflow(self.flow.flow_name, end).get_workflow_id() for end in ends]
        return [self.flow.retrieve(fork).get_result() for fork in forks]


class First(Flow[State]):
    @start()
    def one(self) -> str:
        self.state.items = [Item(name=say("one"))]
        self.state.jobs = [Job("job")]
        self.state.dropped = 1
        self.state.old = 5
        return "one"

    @listen(one)
    def two(self) -> list[Any]:
        say("two")
        return []


class Second(Flow[LaterState]):
    @start()
    def one(self) -> str:
        self.state.items = [LaterItem(name=say("one"))]
        self.state.jobs = [LaterJob("job")]
        self.state.new = 5
        return "one"

    @listen(one)
    def two(self) -> list[Any]:
        say("two")
        state = self.state
        assert "dropped" not in state.model_dump()
        return [state.priority, state.new, state.items[0].tags, state.jobs[0].tags]


def test_a_state_has_the_fields_of_now(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    serve()
    release = Release(First)
    release.run()
    deploy(monkeypatch, LaterItem, LaterJob, LaterState)
    release.build = Second
    # From the last entry on, the result is the one of then.
    assert release.forks()[:-1] == [[3, 5, [], []]] * 3


class ReturnsAnItem(Flow):  # a state of its own class would know the class of then
    @start()
    def one(self) -> Any:
        return Item(name=say("one"))


def test_the_result_of_a_finished_run_has_the_fields_of_now(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve()
    release = Release(ReturnsAnItem)
    release.run()
    deploy(monkeypatch, LaterItem)
    found = release.flow.retrieve(release.flow.flow_name).get_result()
    assert found == LaterItem(name="<one>", tags=[])


def counting(initial: dict[str, Any], persistence: Any = None) -> Callable[[], Flow[Any]]:
    class Counting(Flow[dict[str, Any]]):
        initial_state = initial

        @start()
        def one(self) -> str:
            self.state["n"] = self.state.get("n", 0) + 1
            return say("one")

        @listen(one)
        def two(self) -> list[Any]:
            say("two")
            return sorted((key, value) for key, value in self.state.items() if key != "id")

    return persist(persistence)(Counting) if persistence else Counting


def test_a_dict_has_the_keys_of_now(serve: Serve) -> None:
    serve()
    release = Release(counting({"n": 1}))
    assert release.run() == [("n", 2)]
    release.build = counting({"n": 1, "priority": 3})
    assert release.forks()[:-1] == [[("n", 2), ("priority", 3)]] * 3


def test_a_key_that_a_state_lacked_when_it_began_stays_away(serve: Serve, tmp_path: Path) -> None:
    """crewAI puts back what was kept of a dict, and nothing of its initial state."""
    serve()
    kept = SQLiteFlowPersistence(db_path=str(tmp_path / "states.db"))
    kept.save_state("mine", "before", {"id": "mine", "n": 1})
    release = Release(counting({"n": 1, "other": 2}, kept))
    assert release.run({"id": "mine"}) == [("n", 2)]
    assert release.forks() == [[("n", 2)]] * 6


class Asked(BaseModel):
    topic: str = ""


class LaterAsked(BaseModel):
    subject: str = Field(default="", validation_alias=AliasChoices("subject", "topic"))


def test_a_field_that_a_run_began_with_is_found_under_its_new_name(serve: Serve) -> None:
    serve()

    class Before(Flow[Asked]):
        @start()
        def one(self) -> str:
            return say(self.state.topic)

    class After(Flow[LaterAsked]):
        @start()
        def one(self) -> str:
            return say(self.state.subject)

        @listen(one)
        def two(self) -> str:
            return self.state.subject

    release = Release(Before)
    release.run({"topic": "otters"})
    release.build = After
    (state,) = [
        step["function_id"]
        for step in DBOS.list_workflow_steps(release.flow.flow_name)
        if "/state#" in step["function_name"]
    ]
    fork = DBOS.fork_workflow(release.flow.flow_name, state + 1)
    assert fork.get_result() == "otters"
