"""Methods at the same time: whoever is faster, in the first run or in another one, all is right."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from crewai.flow.flow import Flow, and_, listen, or_, router, start
from dbos import DBOS, SetWorkflowID
from dbos._sys_db import SystemDatabase
from pydantic import BaseModel, Field

from crewai_dbos import DBOSFlow
from crewai_dbos.testing import ModelServer, Reply, Request, text
from crews.scenarios import model
from support.databases import some_here
from support.names import unique
from support.replays import starts_of


class Delays:
    """A model that answers when chance has it, or in the order that a test wants."""

    def __init__(self) -> None:
        self.chance: random.Random | None = None
        self.seconds: dict[str, float] = {}
        self.asked: list[str] = []
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Reply:
        with self._lock:
            self.asked.append(request.last_user_text)
            wait = self.seconds.get(request.last_user_text, 0.0)
            if self.chance is not None:
                wait = self.chance.random() * 0.05
        time.sleep(wait)
        return text(f"<{request.last_user_text}>")


@pytest.fixture
def delays(launched: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Delays]:
    script = Delays()
    with ModelServer(script) as server:
        for key, value in server.env.items():
            monkeypatch.setenv(key, value)
        yield script


def say(what: str) -> str:
    return str(model().call(what))


class State(BaseModel):
    own: dict[str, str] = Field(default_factory=dict)
    heard: list[str] = Field(default_factory=list)
    count: int = 0
    a: str = ""
    b: str = ""
    order: list[str] = Field(default_factory=list)


_counting = threading.Lock()
"""As crewAI runs sync methods on threads, and adding to a number is two steps."""


class Busy(Flow[State]):
    """Four methods that keep something to themselves, and change what all of them share."""

    def _count(self) -> None:
        with _counting:
            self.state.count += 1

    def _work(self, name: str) -> None:
        own = say(f"own {name}")
        self.state.own[name] = own
        self.state.heard.append(f"{name}1")
        self._count()
        self.state.heard.append(f"{name}2 {say(f'more {name}')}")
        self._count()

    @start()
    def one(self) -> str:
        self._work("one")
        return "one"

    @start()
    def two(self) -> str:
        self._work("two")
        return "two"

    @start()
    async def three(self) -> str:
        self.state.a = str(await model().acall("own three"))
        self.state.heard.append("three")
        return "three"

    @listen(one)
    def after_one(self, said: str) -> str:
        self.state.b = say(f"after {said}")
        self._count()
        return "after one"

    @listen(and_(two, three, after_one))
    def last(self, said: str) -> dict[str, Any]:
        self.state.order.append(said)
        say("last")
        # Less what depends on who was faster.
        return {**self.state.model_dump(), "heard": sorted(self.state.heard), "order": 1, "id": ""}


def forked(flow: DBOSFlow, run_id: str, step: int) -> Any:
    """What another process would return that finds the entries before `step`."""
    return next(forked_at_once(flow, run_id, [step]))


def forked_at_once(flow: DBOSFlow, run_id: str, steps: Iterable[int]) -> Iterator[Any]:
    """As `forked`, of several processes at the same time."""
    forks = [DBOS.fork_workflow(run_id, step).get_workflow_id() for step in steps]
    for fork in forks:
        yield flow.retrieve(fork).get_result()


@pytest.mark.some_entries
@pytest.mark.parametrize("seed", some_here(range(4), (0,)))
def test_any_timing(seed: int, delays: Delays) -> None:
    delays.chance = random.Random(seed)
    flow = DBOSFlow(flow_name=unique("busy"), orig_flow=Busy)
    with SetWorkflowID(flow.flow_name):
        expected = flow.kickoff()
    assert expected["count"] == 5
    assert len(expected["heard"]) == 5
    steps = DBOS.list_workflow_steps(flow.flow_name)
    starts = starts_of(steps)
    delays.asked.clear()
    found = forked_at_once(flow, flow.flow_name, starts)
    for first, each in zip(starts, found, strict=True):
        assert each == expected, f"forked at {first}"
    made = sum(
        "/llm" in step["function_name"] and step["function_id"] >= first
        for step in steps
        for first in starts
    )
    assert len(delays.asked) == made


def test_the_last_of_several_triggers_is_the_same(delays: Delays) -> None:
    """crewAI gives a listener of ``and_`` what the last trigger returned."""
    flow = DBOSFlow(flow_name=unique("busy"), orig_flow=Busy)
    delays.seconds = {"own three": 3.0}
    with SetWorkflowID(flow.flow_name):
        flow.kickoff()
    assert flow.state.order == ["three"]
    steps = DBOS.list_workflow_steps(flow.flow_name)
    last = next(s for s in steps if "/method:last#1/llm" in s["function_name"])
    delays.seconds = {"own two": 0.4, "after one": 0.4}
    forked(flow, flow.flow_name, last["function_id"])
    assert flow.state.order == ["three"]


class Beside(Flow[State]):
    """A method that makes calls of its own while others of it are under way."""

    @start()
    async def on_tasks(self) -> list[str]:
        slow = asyncio.create_task(model().acall("slow task"))
        await asyncio.sleep(0)
        quick = await model().acall("quick beside a task")
        return [str(quick), str(await slow)]

    @listen(on_tasks)
    def on_threads(self, said: list[str]) -> list[str]:
        with ThreadPoolExecutor() as pool:
            slow = pool.submit(say, "slow thread")
            quick = say("quick beside a thread")
            return [*said, quick, slow.result()]

    @listen(on_threads)
    async def first_wins(self, said: list[str]) -> list[str]:
        tasks = [asyncio.create_task(model().acall(text)) for text in ("slow loser", "winner")]
        done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        won = [task.result() for task in done]
        return [*said, *won, str(await model().acall("after the race"))]


@pytest.mark.some_entries
def test_calls_beside_each_other_in_one_method(delays: Delays) -> None:
    delays.seconds = {"slow task": 0.5, "slow thread": 0.5, "slow loser": 3.0}
    flow = DBOSFlow(flow_name=unique("beside"), orig_flow=Beside)
    with SetWorkflowID(flow.flow_name):
        expected = flow.kickoff()
    assert expected[-2:] == ["<winner>", "<after the race>"]
    steps = DBOS.list_workflow_steps(flow.flow_name)
    assert any("given_up" in step["function_name"] for step in steps)
    starts = starts_of(steps)
    for begin, found in zip(starts, forked_at_once(flow, flow.flow_name, starts), strict=True):
        assert found == expected, f"forked at {begin}"


class Race(Flow[State]):
    """Whoever is first counts; crewAI cancels the other."""

    @start()
    def begin(self) -> str:
        return say("begin")

    @listen(begin)
    async def hare(self) -> str:
        self.state.a = str(await model().acall("hare"))
        return "hare"

    @listen(begin)
    async def tortoise(self) -> str:
        self.state.b = str(await model().acall("tortoise"))
        return "tortoise"

    @listen(or_(hare, tortoise))
    def cheer(self, winner: str) -> str:
        return say(f"cheer {winner}")


def test_the_winner_of_a_race_stays_the_winner(delays: Delays) -> None:
    delays.seconds = {"tortoise": 4.0}
    flow = DBOSFlow(flow_name=unique("race"), orig_flow=Race)
    with SetWorkflowID(flow.flow_name):
        assert flow.kickoff() == "<cheer hare>"
    assert (flow.state.a, flow.state.b) == ("<hare>", "")
    steps = DBOS.list_workflow_steps(flow.flow_name)
    # The winner is who comes to the end of what follows it.
    won = next(s for s in steps if "/method:cheer#1/outcome" in s["function_name"])
    # Now the other one would be faster.
    delays.seconds = {"hare": 1.0, "cheer hare": 1.0}
    for step in steps:
        if step["function_id"] >= won["function_id"]:
            delays.asked.clear()
            assert forked(flow, flow.flow_name, step["function_id"] + 1) == "<cheer hare>"
            assert flow.state.b == ""
            assert set(delays.asked) <= {"tortoise"}


class Overlap(Flow[State]):
    """Two that change one list, one of which is much slower."""

    @start()
    def quick(self) -> None:
        self.state.heard.append(say("quick"))

    @start()
    def slow(self) -> None:
        self.state.heard.append("slow begins")
        self.state.heard.append(say("slow"))

    @listen(and_(quick, slow))
    def last(self) -> list[str]:
        return sorted(self.state.heard)


def test_a_value_that_is_half_of_another_method_s_is_not_used(delays: Delays) -> None:
    delays.seconds = {"slow": 3.0, "quick": 0.1}
    flow = DBOSFlow(flow_name=unique("overlap"), orig_flow=Overlap)
    with SetWorkflowID(flow.flow_name):
        expected = flow.kickoff()
    assert expected == ["<quick>", "<slow>", "slow begins"]
    steps = DBOS.list_workflow_steps(flow.flow_name)
    quick = next(s for s in steps if "/method:quick#1/outcome" in s["function_name"])
    assert quick["output"]["extra"]["unsettled"] == {
        "heard": [f"flow:{flow.flow_name}#1/method:slow#1"]
    }
    # As after a crash in which the slow one had told half of it.
    assert forked(flow, flow.flow_name, quick["function_id"] + 1) == expected


class Waiting(Flow[State]):
    """What one does last is stored with the end of another; both are beside a slow one."""

    @start()
    def quick(self) -> None:
        self.state.heard.append(say("quick"))

    @start()
    def later(self) -> None:
        self.state.heard.append("later")
        say("later")

    @start()
    def slow(self) -> None:
        self.state.heard.append("slow begins")
        self.state.heard.append(say("slow"))

    @listen(and_(quick, later, slow))
    def last(self) -> list[str]:
        return sorted(self.state.heard)


class WaitingToRemove(Flow[dict[str, Any]]):
    """As `Waiting`, of what is removed."""

    initial_state = {"heard": ["begun"], "said": ""}  # noqa: RUF012

    @start()
    def quick(self) -> None:
        heard = self.state.get("heard")  # "later" may have been quicker
        self.state["said"] = f"{say('quick')} {heard}"

    @start()
    def later(self) -> None:
        self.state.pop("heard")
        say("later")

    @start()
    def slow(self) -> None:
        heard = self.state.get("heard")
        say("slow")
        assert heard is None or heard == ["begun"]

    @listen(and_(quick, later, slow))
    def last(self) -> list[str]:
        return sorted(self.state)


@pytest.mark.parametrize("kind", [Waiting, WaitingToRemove])
def test_a_change_that_another_one_s_end_has_stored_is_not_lost(
    kind: type[Flow[Any]], delays: Delays
) -> None:
    delays.seconds = {"quick": 0.5, "later": 1.5, "slow": 3.0}
    flow = DBOSFlow(flow_name=unique("waiting"), orig_flow=kind)
    with SetWorkflowID(flow.flow_name):
        expected = flow.kickoff()
    state = flow.state.model_dump() if isinstance(flow.state, BaseModel) else dict(flow.state)
    # As after a crash right behind each: once the slow one had not ended, and once it had.
    steps = [step["function_id"] + 1 for step in DBOS.list_workflow_steps(flow.flow_name)]
    for found in forked_at_once(flow, flow.flow_name, steps):
        assert found == expected
        assert isinstance(flow.state, BaseModel) or flow.state.keys() == state.keys()


class Twice(Flow[State]):
    """A router of either of two, which both happen: it runs twice, perhaps at the same time."""

    @start()
    def one(self) -> str:
        return say("one")

    @start()
    def two(self) -> str:
        return say("two")

    @router(or_(one, two))
    def route(self, said: str) -> str:
        self.state.own[said] = say(f"route {said}")
        return "done"

    @listen("done")
    def end(self) -> str:
        return "end"


@pytest.mark.some_entries
def test_a_method_beside_itself(delays: Delays) -> None:
    for first in ("route <one>", "route <two>"):
        delays.seconds = {first: 0.3}
        flow = DBOSFlow(flow_name=unique("twice"), orig_flow=Twice)
        with SetWorkflowID(flow.flow_name):
            flow.kickoff()
        expected = {"<one>": "<route <one>>", "<two>": "<route <two>>"}
        assert flow.state.own == expected
        delays.seconds = {}
        starts = starts_of(DBOS.list_workflow_steps(flow.flow_name))
        for _ in forked_at_once(flow, flow.flow_name, starts):
            assert flow.state.own == expected


@pytest.mark.some_entries
def test_an_end_that_is_written_faster_does_not_overtake(
    delays: Delays, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = SystemDatabase.record_operation_result

    def written(self: Any, result: Any, **options: Any) -> None:
        if result["function_name"].endswith("/method:one#1/outcome#1"):
            time.sleep(1.0)
        write(self, result, **options)

    monkeypatch.setattr(SystemDatabase, "record_operation_result", written)
    delays.seconds = {"two": 0.3, "route <two>": 0.3}
    flow = DBOSFlow(flow_name=unique("overtaken"), orig_flow=Twice)
    with SetWorkflowID(flow.flow_name):
        flow.kickoff()
    expected = {"<one>": "<route <one>>", "<two>": "<route <two>>"}
    assert flow.state.own == expected
    starts = starts_of(DBOS.list_workflow_steps(flow.flow_name))
    for _ in forked_at_once(flow, flow.flow_name, starts):
        assert flow.state.own == expected


class Slow(Flow[State]):
    @start()
    def one(self) -> None:
        say("wait one")

    @start()
    def two(self) -> None:
        say("wait two")

    @start()
    async def three(self) -> None:
        await model().acall("wait three")

    @listen(and_(one, two, three))
    async def last(self) -> None:
        await asyncio.gather(*(model().acall(f"wait more {n}") for n in range(3)))


def test_what_is_parallel_stays_parallel(delays: Delays) -> None:
    at_once, most = [0], [0]
    everyone = threading.Barrier(3)

    def together(request: Request) -> Reply:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        everyone.wait(20)
        at_once[0] -= 1
        return text("done")

    with ModelServer(together) as server, pytest.MonkeyPatch.context() as patch:
        for key, value in server.env.items():
            patch.setenv(key, value)
        flow = DBOSFlow(flow_name=unique("slow"), orig_flow=Slow)
        flow.kickoff()
    assert most[0] == 3
