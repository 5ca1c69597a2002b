"""A run's error comes out as itself, whatever pickle says of it."""

from __future__ import annotations

import asyncio
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
from crewai import Agent, Crew
from crewai.flow.flow import Flow, start
from crewai.hooks import HookAborted, InterceptionPoint, register_hook, unregister_hook
from dbos import DBOS, SetWorkflowID
from pydantic import ValidationError

from crewai_dbos import DBOSAgent, DBOSCrew
from crewai_dbos._stored import modules
from crewai_dbos._stored.errors import decode_error, encode_error
from crewai_dbos.errors import RecordedError
from crews.scenarios import agent, task
from flows.scenarios import say
from flows.test_runs import durable
from support.databases import some_here
from support.names import unique
from support.serving import Serve


class Holding(Exception):
    """Holds what pickle refuses."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.RLock()


class Demanding(Exception):
    """Can't be made of its arguments."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


def aborted() -> Exception:
    def block(context: Any) -> None:
        """A hook of a function."""

    return HookAborted(reason="blocked by policy", source=block)  # type: ignore[arg-type]


def local() -> Exception:
    class Local(ValueError):
        pass

    return Local("of a function")


def invalid() -> Exception:
    try:
        Agent(role="A", goal="B", backstory="C", llm=threading.RLock())
    except ValidationError as error:
        return error
    raise AssertionError


ERRORS = [aborted, local, lambda: Holding("holds"), lambda: Demanding(code=3), invalid]
NAMES = ["hook", "local", "lock", "demanding", "validation"]


def in_a_workflow(call: Callable[[], Any]) -> Any:
    """What `call` comes to in a workflow of the user's."""

    @DBOS.workflow(name=unique("workflow"))
    def workflow() -> Any:
        return call()

    return workflow()


WAYS: dict[str, Callable[[Any], Any]] = {
    "kickoff": lambda flow: flow.kickoff(),
    "kickoff_async": lambda flow: asyncio.run(flow.kickoff_async()),
    "in a workflow": lambda flow: in_a_workflow(flow.kickoff),
}


HERE = [
    *product(("kickoff",), NAMES),
    ("kickoff_async", "lock"),
    *product(("in a workflow",), ("hook", "local", "demanding")),
]


@pytest.mark.parametrize(("way", "name"), some_here(product(WAYS, NAMES), HERE))
def test_of_a_flow(way: str, name: str, serve: Serve) -> None:
    serve()
    make = dict(zip(NAMES, ERRORS, strict=True))[name]
    plain = make()

    class Failing(Flow):
        @start()
        def fail(self) -> None:
            say("before")
            raise plain

    flow = durable(Failing)
    # One that a row can't name, or a class that can't be derived from, comes out as one of a base.
    replaced = way == "in a workflow" and make in (local, invalid)
    with (
        SetWorkflowID(flow.flow_name),
        pytest.raises(ValueError if replaced else type(plain), match=re.escape(str(plain))) as ours,
    ):
        WAYS[way](flow)
    of_ours = {"recorded_type", "__crewai_dbos_raised__"}
    assert vars(ours.value).keys() - of_ours == vars(plain).keys()
    if way != "in a workflow":
        expected = ValueError if make in (local, invalid) else type(plain)
        with pytest.raises(expected, match=re.escape(str(plain))):
            flow.retrieve(flow.flow_name).get_result()


def block(_: Any) -> Any:
    """Stands for a policy."""

    def rule() -> None:
        pass

    raise HookAborted(reason="blocked by policy", source=rule)  # type: ignore[arg-type]


@pytest.fixture
def policy() -> Iterator[None]:
    register_hook(InterceptionPoint.PRE_MODEL_CALL, block)
    yield
    unregister_hook(InterceptionPoint.PRE_MODEL_CALL, block)


def of_an_agent() -> Any:
    one = DBOSAgent(agent_name=unique("blocked"), orig_agent=agent("Clerk"))
    return one.execute_task(task("Do it", one))


def of_a_crew() -> Any:
    clerk = agent("Clerk")
    crew = Crew(agents=[clerk], tasks=[task("Do it", clerk)])
    return DBOSCrew(crew_name=unique("blocked"), orig_crew=crew).kickoff()


class Asking(Flow):
    @start()
    def ask(self) -> Any:
        return say("one")


@pytest.mark.parametrize("joins", [False, True], ids=["own run", "in a workflow"])
@pytest.mark.parametrize(
    "call", [of_an_agent, of_a_crew, lambda: durable(Asking).kickoff()],
    ids=["agent", "crew", "flow"],
)  # fmt: skip
def test_a_policy_that_a_hook_keeps(
    call: Callable[[], Any], joins: bool, serve: Serve, policy: None
) -> None:
    server = serve()
    with pytest.raises(HookAborted, match="blocked by policy") as found:
        in_a_workflow(call) if joins else call()
    assert found.value.reason == "blocked by policy"
    assert "source" in vars(found.value)
    assert server.requests == []


class Says(Exception):
    def __str__(self) -> str:
        return "says so"


@pytest.mark.parametrize("make", [local, Says, aborted], ids=["stand-in", "own text", "hook"])
def test_a_recorded_error_can_be_pickled(
    make: Callable[[], Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "_defining", set())
    recorded = decode_error(encode_error(make()))
    found = pickle.loads(pickle.dumps(recorded))
    assert type(found).__name__ == type(recorded).__name__
    assert str(found) == str(recorded) == str(make())
    assert vars(found) == vars(recorded)
    for base in (ValueError, RecordedError, HookAborted, Says):
        assert isinstance(found, base) == isinstance(recorded, base)
