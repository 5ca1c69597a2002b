"""What methods did to the state and to the flow is as it was, whichever way they did it."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import threading
import tracemalloc
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import httpx
import pytest
from crewai.flow.flow import Flow, FlowState, and_, listen, start
from crewai.types.streaming import StreamSession
from dbos import DBOS, SetWorkflowID
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

import crewai_dbos
from crewai_dbos import ConcurrentRunError, DBOSFlow
from crewai_dbos._classes import durable_class
from crewai_dbos._flows.run_flow import _RunFlow
from crewai_dbos._flows.state import aliases, changes
from crewai_dbos._flows.state.tracking import Execution, at_work
from crewai_dbos._stored import codec
from flows.scenarios import say, stamp
from flows.test_runs import durable
from support.entries import EVERY
from support.names import unique
from support.serving import Serve


class Item(BaseModel):
    name: str = ""


class State(BaseModel):
    heard: list[str] = Field(default_factory=list)
    items: list[Item] = Field(default_factory=list)
    _secret: list[str] = PrivateAttr(default_factory=list)


class GivenAList(Flow[State]):
    @start()
    def begin(self) -> list[str]:
        self.state.heard.append("begin")
        return self.state.heard

    @listen(begin)
    def takes(self, heard: list[str]) -> None:
        heard.append(say("takes"))

    @listen(begin)
    def reads(self) -> str:
        return say(f"reads {len(self.state.heard)}")

    @listen(and_(takes, reads))
    def last(self) -> list[str]:
        return list(self.state.heard)


class GivenAnItem(Flow[State]):
    @start()
    def begin(self) -> Item:
        self.state.items = [Item(name=say("one"))]
        return self.state.items[0]

    @listen(begin)
    def edits(self, item: Item) -> None:
        item.name += " edited"
        say("edited")

    @listen(edits)
    def last(self) -> list[str]:
        return [item.name for item in self.state.items]


class Private(Flow[State]):
    _log: list[str] = PrivateAttr(default_factory=list)

    @start()
    def begin(self) -> None:
        self._log.append("begin")
        self.state._secret.append(say("begin"))

    @listen(begin)
    def last(self) -> list[str]:
        return [*self._log, *self.state._secret, say("last")]


class Deleting(Flow[State]):
    _log: list[str] = PrivateAttr(default_factory=list)

    @start()
    def begin(self) -> None:
        self.cache = ["cached"]
        self._log.append(say("begin"))
        self.state._secret.append("secret")

    @listen(begin)
    def deletes(self) -> None:
        del self.cache
        del self._log
        del self.state._secret
        say("deleted")

    @listen(deletes)
    def last(self) -> list[Any]:
        found = [hasattr(self, "cache"), hasattr(self, "_log"), hasattr(self.state, "_secret")]
        return [*found, say("last")]


class OddKeys(Flow):
    @start()
    def begin(self) -> None:
        self.state[1] = say("one")
        self.state["self.x"] = "no attribute"

    @listen(begin)
    def last(self) -> list[Any]:
        return [self.state[1], self.state["self.x"], say("last")]


class Inner(Flow[State]):
    @start()
    def inside(self) -> str:
        return say("inside")


class Twice(Flow[State]):
    @start()
    def begin(self) -> list[str]:
        inner = Inner()
        return [str(inner.kickoff()), str(inner.kickoff())]


class Whole(FlowState):
    heard: list[str] = Field(default_factory=list)


class Pickled(Flow[Whole]):
    @start()
    def begin(self) -> list[str]:
        self.state.heard.append(say("one"))
        copied = pickle.loads(pickle.dumps(self.state))
        return list(copied.heard)


class Place(NamedTuple):
    name: str
    answers: Any


class Collected(BaseModel):
    counted: Any = Field(default_factory=Counter)
    groups: Any = Field(default_factory=lambda: defaultdict(list))
    last: Any = Field(default_factory=lambda: deque(maxlen=2))


class Collections(Flow[Collected]):
    @start()
    def begin(self) -> Place:
        for word in ("a", "b", "a"):
            self.state.counted[word] += 1
            self.state.groups[word].append(say(word))
            self.state.last.append(word)
        return Place("begin", self.state.groups["a"])

    @listen(begin)
    def last(self, place: Place) -> list[Any]:
        self.state.groups["new"].append(say("last"))
        self.state.last.append("last")
        state = self.state
        return [place.name, place.answers, state.counted.most_common(1), state.groups, state.last]


class AllOfIt(Flow):
    @start()
    def begin(self) -> Any:
        self.state["said"] = say("one")
        return self.state


class Parts(Flow):
    @start()
    def begin(self) -> list[Any]:
        part = AllOfIt().kickoff()
        return [type(part) is dict, part["said"]]


class Account:
    """Of no class that has a JSON form."""

    def __init__(self) -> None:
        self.balance = 1
        self.lock = threading.Lock()


class Owner:
    def __init__(self) -> None:
        self.accounts = [Plain()]
        self.lock = threading.Lock()


class Plain:
    def __init__(self) -> None:
        self.balance = 1


class ChangesObjects(Flow):
    """Objects that can't be stored, changed by a method that comes later."""

    @start()
    def begin(self) -> None:
        self.account = Account()
        self.state["owner"] = Owner()
        say("begin")

    @listen(begin)
    def adds(self) -> None:
        self.account.balance += len(say("adds"))

    @listen(adds)
    def adds_deep_inside(self) -> None:
        self.state["owner"].accounts[0].balance += len(say("adds"))

    @listen(adds_deep_inside)
    def last(self) -> list[int]:
        return [self.account.balance, self.state["owner"].accounts[0].balance]


class UsesAClient(Flow):
    """What a client does to itself is no reason to run a method again."""

    @start()
    def begin(self) -> None:
        self.client = httpx.Client()

    @listen(begin)
    def asks(self) -> str:
        asked.append("asks")
        with contextlib.suppress(httpx.ConnectError):
            self.client.get("http://127.0.0.1:1")
        return say("asks")

    @listen(asks)
    def last(self, said: str) -> str:
        return said


asked: list[str] = []


@dataclass
class Shelf:
    label: str
    top: Item | None = None


class Catalogue(BaseModel):
    items: list[Item] = Field(default_factory=list)
    current: Item | None = None
    by_name: dict[str, Item] = Field(default_factory=dict)
    shelves: list[Shelf] = Field(default_factory=list)
    seen: list[str] = Field(default_factory=list)
    again: list[str] = Field(default_factory=list)


class Shared(Flow[Catalogue]):
    """One object in several places: changed in one of them, it is changed in all."""

    @start()
    def begin(self) -> dict[str, Any]:
        state = self.state
        state.items = [Item(name=say(name)) for name in ("a", "b", "c")]
        state.current = state.items[0]
        state.by_name = {item.name: item for item in state.items}
        state.shelves = [Shelf("one", state.items[2]), Shelf("two", state.items[2])]
        state.again = state.seen
        self.chosen = state.items[1]
        return {"items": state.items, "first": state.items[0]}

    @listen(begin)
    def edits(self, given: dict[str, Any]) -> None:
        self.state.current.name += " edited"
        self.chosen.name += " chosen"
        self.state.by_name["<b>"].name += " by name"
        self.state.shelves[0].top.name += " on a shelf"
        given["first"].name += " given"
        given["items"].append(Item(name=say("d")))
        self.state.again.append("edits")

    @listen(edits)
    def moves_on(self) -> None:
        self.state.current = self.state.items[3]
        self.state.again = list(self.state.again)
        say("moved on")

    @listen(moves_on)
    def last(self) -> list[Any]:
        self.state.current.name += " current"
        self.state.again.append(say("last"))
        return [self.state.model_dump(exclude={"id"}), self.chosen.name]


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


class Aisle(NamedTuple):
    number: int


class Index(BaseModel):
    items: list[Item] = Field(default_factory=list)
    by_size: dict[Size, Item] = Field(default_factory=dict)
    by_other: dict[Any, Item] = Field(default_factory=dict)


class SharedByKeys(Flow[Index]):
    """One object in several places, also under keys that are no texts."""

    @start()
    def begin(self) -> Item:
        state = self.state
        keys: list[Any] = [
            Size.LARGE,
            (1, "a"),
            date(2026, 11, 29),
            Decimal("1.5"),
            UUID(int=7),
            Aisle(3),
            2.5,
            None,
        ]
        state.items = [Item(name=say(f"{number}")) for number, _ in enumerate(keys)]
        state.by_size = {Size.SMALL: state.items[0]}
        state.by_other = dict(zip(keys, state.items, strict=True))
        self.chosen = {Size.LARGE: {date(2026, 1, 1): state.items[1]}}
        return state.by_size[Size.SMALL]

    @listen(begin)
    def edits(self, first: Item) -> None:
        first.name += " given"
        self.state.by_size[Size.SMALL].name += " by size"
        for key, item in self.state.by_other.items():
            item.name += f" by {key}"
        self.chosen[Size.LARGE][date(2026, 1, 1)].name += " chosen"
        say("edited")

    @listen(edits)
    def last(self) -> list[Any]:
        self.state.by_size[Size.SMALL].name += say("last")
        same = [a is b for a, b in zip(self.state.items, self.state.by_other.values(), strict=True)]
        return [[item.name for item in self.state.items], same]


class SharedByTwo(Flow[Catalogue]):
    """The same beside another method that changes one of the places."""

    @start()
    def begin(self) -> None:
        self.state.items = [Item(name="a"), Item(name="b")]
        self.chosen = self.state.items[1]

    @listen(begin)
    def one(self) -> None:
        self.chosen.name += say(" one")

    @listen(begin)
    def two(self) -> None:
        self.state.items[0].name += say(" two")
        self.state.items.append(Item(name=say("three")))

    @listen(and_(one, two))
    def last(self) -> list[str]:
        self.chosen.name += say(" last")
        return [item.name for item in self.state.items]


class Money(Decimal):
    def cents(self) -> int:
        return int(self * 100)


class Calendar(BaseModel):
    begins: datetime | None = None
    price: Any = None


class Dates(Flow[Calendar]):
    @start()
    def begin(self) -> Any:
        self.state.begins = datetime(2026, 3, 28, 12, tzinfo=ZoneInfo("Europe/Berlin"))
        self.state.price = Money("1.50")
        say("begin")
        return time(3, tzinfo=ZoneInfo("Europe/Berlin"))

    @listen(begin)
    def last(self, at: time) -> list[Any]:
        begins = self.state.begins
        assert begins is not None
        later = (begins + timedelta(days=1)).isoformat()
        return [later, self.state.price.cents(), str(at.tzinfo), say("last")]


@dataclass
class Job:
    name: str
    result: str = field(init=False, repr=False)


class Unfinished(Flow):
    @start()
    def begin(self) -> Job:
        self.job = Job("one")
        say("begin")
        return Job("two")

    @listen(begin)
    def last(self, job: Job) -> list[Any]:
        self.job.result = crewai_dbos.step(finished, job)
        return [self.job.result, hasattr(job, "result"), say("last")]


def finished(job: Job) -> str:
    return f"{job.name} is done"


class Alike(Flow):
    """One field has values after one another that are equal, or written alike."""

    @start()
    def number(self) -> None:
        self.becomes(1)

    @listen(number)
    def truth(self) -> None:
        self.becomes(True)

    @listen(truth)
    def part(self) -> None:
        self.becomes(1.0)

    @listen(part)
    def text(self) -> None:
        self.becomes("1")

    @listen(text)
    def several(self) -> None:
        self.becomes(["1"])

    @listen(several)
    def text_again(self) -> None:
        self.becomes("1")

    @listen(text_again)
    def last(self) -> list[str]:
        self.becomes(None)
        return list(self.state["seen"])

    def becomes(self, value: Any) -> None:
        self.state.setdefault("seen", []).append(say(repr(self.state.get("what"))))
        self.state["what"] = value


@pytest.mark.some_entries
@pytest.mark.parametrize(
    "flow",
    [
        Alike,
        Dates,
        Unfinished,
        GivenAList,
        GivenAnItem,
        Private,
        Deleting,
        OddKeys,
        Twice,
        Pickled,
        Collections,
        Parts,
        ChangesObjects,
        Shared,
        SharedByKeys,
        SharedByTwo,
    ],
    ids=lambda flow: flow.__name__,
)
def test_as_with_crewai_and_from_every_entry(flow: Any, serve: Serve) -> None:
    serve()
    expected = flow().kickoff()
    ours = durable(flow)
    with SetWorkflowID(ours.flow_name):
        assert ours.kickoff() == expected
    steps = DBOS.list_workflow_steps(ours.flow_name)
    if not EVERY:  # what a method did is in its outcome
        steps = [step for step in steps if "/outcome#" in step["function_name"]]
    forks = [DBOS.fork_workflow(ours.flow_name, s["function_id"] + 1) for s in steps]
    for step, fork in zip(steps, forks, strict=True):
        found = ours.retrieve(fork.get_workflow_id()).get_result()
        assert found == expected, step["function_name"]


def test_a_method_that_used_a_client_is_not_run_again(serve: Serve) -> None:
    serve()
    flow = durable(UsesAClient)
    with SetWorkflowID(flow.flow_name):
        assert flow.kickoff() == "<asks>"
    asked.clear()
    last = DBOS.list_workflow_steps(flow.flow_name)[-1]
    fork = DBOS.fork_workflow(flow.flow_name, last["function_id"])
    assert flow.retrieve(fork.get_workflow_id()).get_result() == "<asks>"
    assert not asked


def test_a_flow_that_a_method_used_is_an_ordinary_one_afterwards(serve: Serve) -> None:
    serve()
    inner = Inner()
    memory = inner.memory

    class Uses(Flow[State]):
        @start()
        def begin(self) -> str:
            return str(inner.kickoff())

    assert durable(Uses).kickoff() == "<inside>"
    assert type(inner) is Inner
    assert inner.memory is memory
    assert inner.kickoff() == "<inside>"


def test_a_child_workflow_records_only_what_is_its_own(serve: Serve) -> None:
    serve()
    name = unique("child")

    @DBOS.workflow(name=name)
    def child() -> str:
        return say("x") + stamp("y")

    class Parent(Flow[State]):
        @start()
        def begin(self) -> str:
            with SetWorkflowID(name):
                return child()

    assert durable(Parent).kickoff() == "<x>stamped y"
    names = [step["function_name"] for step in DBOS.list_workflow_steps(name)]
    assert len(names) == 1
    assert names[0].endswith("stamp")


@pytest.mark.parametrize("how", ["step", "uuid4"])
def test_tasks_of_a_loop_that_a_sync_method_runs(how: str, serve: Serve) -> None:
    @DBOS.step()
    async def pack(what: str) -> str:
        return what

    async def one(what: str) -> str:
        return await pack(what) if how == "step" else str(crewai_dbos.uuid4())

    async def both() -> list[str]:
        return list(await asyncio.gather(one("a"), one("b")))

    class Loops(Flow[State]):
        @start()
        def begin(self) -> list[str]:
            return asyncio.run(both())

    class OneByOne(Flow[State]):
        @start()
        def begin(self) -> int:
            return len({asyncio.run(one("a")), asyncio.run(one("b"))})

    serve()
    with pytest.raises(ConcurrentRunError, match="asyncio task than its own"):
        durable(Loops).kickoff()
    assert durable(OneByOne).kickoff() == 2


def test_a_stream_each_time(serve: Serve) -> None:
    def build() -> Any:
        flow = Inner()
        flow.stream = True
        return flow

    serve()
    flow: DBOSFlow = durable(build)
    for _ in range(2):
        session = flow.kickoff()
        assert isinstance(session, StreamSession)
        assert list(session)
        assert session.result == "<inside>"


class OnlyBegins(Flow):  # type: ignore[type-arg]
    @start()
    def go(self) -> None: ...


def test_what_a_field_held_that_is_gone_is_not_kept() -> None:
    flow = OnlyBegins()
    state = changes.FlowState(flow, changes.declared(flow))
    tracemalloc.start()
    for number in range(20):
        flow.state[f"page{number}"] = "x" * 100_000 + str(number)
        state.changes(Execution("go"), [])
        del flow.state[f"page{number}"]
        state.changes(Execution("go"), [])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    state.release()
    assert held < 500_000


class Keeps(Flow):  # type: ignore[type-arg]
    _mine: list[str] = PrivateAttr(default_factory=list)
    shown: Any = None

    @start()
    def go(self) -> None: ...


@pytest.mark.parametrize("name", ["_mine", "shown"])
def test_a_method_that_reads_an_attribute_may_have_changed_what_it_holds(name: str) -> None:
    flow = Keeps(shown=[])
    flow.__class__ = durable_class(_RunFlow, Keeps)
    method = Execution("go")
    with at_work(method):
        getattr(flow, name).append("read")
    assert method.touched == {(id(flow), name)}


def test_of_keys_only_those_of_what_may_be_shared_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    encode = codec.encode
    monkeypatch.setattr(codec, "encode", lambda value: asked.append(value) or encode(value))
    one: list[int] = []
    days = {date(2000, 1, 1) + timedelta(at): float(at) for at in range(100)}
    held = {**days, (1, 2): one, object(): one, "a": one}
    assert aliases.shared([("held", held)]) == [[["held", "a"], ["held", (1, 2)]]]
    assert aliases.find(one, held) == [(1, 2)]
    assert not {*asked} & days.keys()


class Optional(BaseModel):
    model_config = ConfigDict(extra="allow")
    id: str = ""
    topic: str = ""
    stamp: str = Field(default_factory=lambda: str(datetime.now()))
    items: list[str] = Field(default_factory=list)
    late: str | None = None


class OfWhatWasSet(Flow[Optional]):
    """What it asks is made of the fields that somebody has set."""

    @start()
    def begin(self) -> str:
        self.state.topic = "x"
        self.state.items.append("in place")
        return self.told()

    @listen(begin)
    def sets(self, _: str) -> str:
        self.state.late = "late"
        return self.told()

    @listen(sets)
    def last(self, said: str) -> list[str]:
        return [said, self.told()]

    def told(self) -> str:
        return say(self.state.model_dump_json(exclude_unset=True, exclude={"id"}))


def test_fields_that_nobody_has_set_are_unset_after_recovery_too(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    serve()
    flow = durable(OfWhatWasSet)
    with SetWorkflowID(flow.flow_name):
        expected = flow.kickoff()
    assert expected == ['<{"topic":"x","late":"late"}>'] * 2
    for row in DBOS.list_workflow_steps(flow.flow_name):
        fork = DBOS.fork_workflow(flow.flow_name, row["function_id"] + 1).get_workflow_id()
        assert flow.retrieve(fork).get_result() == expected
    assert "was recorded with other" not in caplog.text


class Views(Flow[dict[str, Any]]):
    @start()
    def begin(self) -> bool:
        before = dict(self.state)
        same = self.state.items() == before.items() and self.state.items() >= before.items()
        self.state["list"] = []
        for value in self.state.values():
            if isinstance(value, list):
                value.append("from the view")
        return same and type(self.state.values()) is type({}.values())

    @listen(begin)
    def then(self, same: bool) -> list[Any]:
        return [same, say("then"), self.state["list"]]


def test_views_of_a_state_that_is_a_dict_are_views(serve: Serve) -> None:
    serve()
    flow = durable(Views)
    with SetWorkflowID(flow.flow_name):
        assert flow.kickoff() == [True, "<then>", ["from the view"]]
    for row in DBOS.list_workflow_steps(flow.flow_name):
        fork = DBOS.fork_workflow(flow.flow_name, row["function_id"] + 1).get_workflow_id()
        assert flow.retrieve(fork).get_result() == [True, "<then>", ["from the view"]]
