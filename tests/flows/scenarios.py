"""What a flow can do, each as a class and a script of the model.

A scenario is run by crewAI alone, by a DBOSFlow, by forks of that run, and by processes that are
killed. What ends up in the state depends on what was asked only, so that a value in the wrong place
shows.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from crewai import Crew
from crewai.flow.flow import Flow, and_, listen, or_, router, start
from crewai.flow.human_feedback import HumanFeedbackResult, human_feedback
from crewai.flow.persistence import SQLiteFlowPersistence, persist
from crewai.memory.unified_memory import Memory
from crewai.tools import BaseTool, tool
from dbos import DBOS, SetWorkflowID
from pydantic import BaseModel, Field

import crewai_dbos
from crewai_dbos import DBOSAgent, DBOSCrew, DBOSFlow
from crewai_dbos.testing import Reply, Request, report_effect, structured, text
from crews.scenarios import (
    agent,
    archive,
    by_role,
    embed,
    folder,
    model,
    search,
    search_for_it,
    task,
    turns,
)
from flows.workers import Worker, ask_model

Script = Callable[[Request], Reply]


@dataclass
class Scenario:
    """One thing a flow does.

    Attributes:
        flow: Its class.
        script: The model's replies.
        inputs: Of the kickoff.
        racing: Whether what is asked and done depends on who is faster, or on the clock.
        shared_state: Whether another run would see what this one left, or miss what it was sent.
        better: Whether crewAI alone fails at it, or does not count all tokens.
        unequal: Fields of the state that are no run's but its own.
    """

    flow: Callable[[], Any]
    script: Script
    inputs: dict[str, Any] = field(default_factory=lambda: {"topic": "otters"})
    racing: bool = False
    shared_state: bool = False
    better: bool = False
    unequal: tuple[str, ...] = ()


def echo(request: Request) -> Reply:
    """An answer that says what was asked."""
    return text(f"<{request.last_user_text}>")


def say(what: str) -> str:
    """Ask a model that has just been made."""
    return str(model().call(what))


# One after the other -----------------------------------------------------------------


class Report(BaseModel):
    topic: str = ""
    outline: str = ""
    found: list[str] = Field(default_factory=list)
    report: str = ""


class Sequence(Flow[Report]):
    @start()
    def outline(self) -> str:
        report_effect("outline")
        self.state.outline = say(f"Outline {self.state.topic}")
        return self.state.outline

    @listen(outline)
    async def research(self, outline: str) -> list[str]:
        report_effect("research")
        self.state.found.append(search.run(query=self.state.topic))
        self.state.found.append(str(await model().acall(f"Research {outline}")))
        self.state.found.append(archive.run(text="notes"))
        return self.state.found

    @listen(research)
    def write(self, found: list[str]) -> Report:
        report_effect("write")
        found.append("the end")
        self.state.report = say(f"Write {found}")
        return self.state


class Untyped(Flow):
    """A state that is a dict."""

    @start()
    def first(self) -> None:
        self.state["first"] = say(f"First {self.state['topic']}")
        self.state.setdefault("list", []).append("one")
        self.state["gone"] = "soon"

    @listen(first)
    def second(self) -> str:
        report_effect("second")
        del self.state["gone"]
        self.state["list"].append("two")
        self.state.update(second=say(f"Second {self.state['first']}"))
        return str(self.state["second"])

    @listen(second)
    def third(self) -> dict[str, Any]:
        return {key: self.state[key] for key in sorted(self.state) if key != "id"}


# Side by side ------------------------------------------------------------------------


class Shared(BaseModel):
    topic: str = ""
    a: str = ""
    b: str = ""
    c: str = ""
    heard: list[str] = Field(default_factory=list)
    joined: str = ""


class Parallel(Flow[Shared]):
    """Starts, sync and async, that each keep something to themselves and tell something to all."""

    @start()
    def one(self) -> str:
        report_effect("one")
        self.state.a = say(f"One {self.state.topic}")
        self.state.heard.append(say("Tell one"))
        return self.state.a

    @start()
    async def two(self) -> str:
        report_effect("two")
        self.state.b = str(await model().acall(f"Two {self.state.topic}"))
        self.state.heard.append(str(await model().acall("Tell two")))
        return self.state.b

    @start()
    def three(self) -> str:
        report_effect("three")
        self.state.c = say(f"Three {self.state.topic}")
        return self.state.c

    @listen(and_(one, two, three))
    def join(self) -> str:
        report_effect("join")
        self.state.heard.sort()
        parts = [self.state.a, self.state.b, self.state.c, *self.state.heard]
        self.state.joined = say(f"Join {parts}")
        return self.state.joined


class Or(Flow[Shared]):
    """A listener of either; both happen one after the other."""

    @start()
    def one(self) -> str:
        return say("One")

    @listen(one)
    def two(self, said: str) -> str:
        return say(f"Two {said}")

    @listen(or_(one, two))
    def log(self, said: str) -> str:
        report_effect("log", said=said)
        self.state.heard.append(said)
        return said

    @listen(and_(two, log))
    def last(self) -> str:
        return say(f"Last {self.state.heard}")


# Back and forth ----------------------------------------------------------------------


class Draft(BaseModel):
    topic: str = ""
    drafts: list[str] = Field(default_factory=list)
    rounds: int = 0


class Loop(Flow[Draft]):
    """A router that goes back until it has enough."""

    @start("again")
    def draft(self) -> str:
        self.state.rounds += 1
        self.state.drafts.append(say(f"Draft {self.state.rounds} of {self.state.topic}"))
        report_effect("draft", round=self.state.rounds)
        return self.state.drafts[-1]

    @router(draft)
    def review(self, draft: str) -> str:
        report_effect("review", draft=draft)
        return "accepted" if self.state.rounds == 3 else "again"

    @listen("accepted")
    def publish(self) -> str:
        return say(f"Publish {len(self.state.drafts)}")


class Rounds(Draft):
    wanted: int = 0


class Long(Flow[Rounds]):
    """As many rounds as are wanted."""

    max_method_calls: int = 1000

    @start("again")
    def draft(self) -> str:
        self.state.rounds += 1
        said = say(f"Draft {self.state.rounds}")
        search.run(query=f"round {self.state.rounds}")
        return said

    @router(draft)
    def enough(self, said: str) -> str:
        self.state.drafts = [*self.state.drafts[-2:], said]
        return "accepted" if self.state.rounds == self.state.wanted else "again"

    @listen("accepted")
    def end(self) -> str:
        return f"{self.state.rounds} {self.state.drafts}"


# What a method uses ------------------------------------------------------------------


class Work(BaseModel):
    topic: str = ""
    results: dict[str, str] = Field(default_factory=dict)


def _crew() -> Crew:
    researcher, writer = agent("Researcher", tools=[search]), agent("Writer")
    return Crew(
        agents=[researcher, writer],
        tasks=[task("Research {topic}", researcher, name="research"), task("Write", writer)],
    )


class Teams(Flow[Work]):
    """Agents and crews of crewAI's own and durable ones."""

    @start()
    def plain_crew(self) -> str:
        crew = _crew()
        output = crew.kickoff(inputs={"topic": self.state.topic})
        assert crew.usage_metrics is not None
        assert crew.tasks[0].output is not None
        self.state.results["crew"] = f"{output.raw} {crew.usage_metrics.total_tokens}"
        return str(output.raw)

    @listen(plain_crew)
    async def plain_agent(self) -> Any:
        clerk = agent("Clerk", tools=[search])
        output = await clerk.kickoff_async(f"Sum up {self.state.topic}")
        self.state.results["agent"] = output.raw
        return output

    @listen(plain_agent)
    def durable(self, output: Any) -> str:
        self.state.results["seen"] = output.raw
        done = _durable_crew().kickoff(inputs={"topic": self.state.topic})
        self.state.results["durable crew"] = done.raw
        self.state.results["durable agent"] = _durable_agent().kickoff("Check it").raw
        return str(done.raw)


def _once(make: Callable[[], Any]) -> Callable[[], Any]:
    made: list[Any] = []
    lock = threading.Lock()

    def get() -> Any:
        with lock:
            if not made:
                made.append(make())
            return made[0]

    return get


_durable_crew = _once(lambda: DBOSCrew(crew_name="flow crew", orig_crew=_crew))
_durable_agent = _once(
    lambda: DBOSAgent(agent_name="flow agent", orig_agent=lambda: agent("Checker"))
)


class Inner(Flow[Draft]):
    @start()
    def inside(self) -> str:
        report_effect("inside", topic=self.state.topic)
        self.state.drafts = [say(f"Inside {self.state.topic}")]
        return self.state.drafts[0]

    @listen(inside)
    def after(self, said: str) -> str:
        return say(f"After {said}")


class LookUp(BaseTool):
    name: str = "look_up"
    description: str = "Look something up."

    def _run(self, what: str) -> str:
        raise AssertionError("it is awaited")

    async def _arun(self, what: str) -> str:
        found = str(await model().acall(f"Look up {what}"))
        report_effect("look_up", what=what)
        return found


@tool
@DBOS.step()
async def price(what: str) -> str:
    """What something costs."""
    report_effect("price", what=what)
    return f"{what} costs 3"


class Awaiting(Flow[Work]):
    """Tools that are awaited, one after the other and side by side."""

    @start()
    async def one(self) -> str:
        self.state.results["one"] = str(await LookUp().arun(what=self.state.topic))
        return self.state.results["one"]

    @listen(one)
    async def two(self, found: str) -> str:
        both = asyncio.gather(LookUp().arun(what=found), price.arun(what=self.state.topic))
        self.state.results["two"] = ", ".join(await both)
        return self.state.results["two"]


_inner = _once(lambda: DBOSFlow(flow_name="inner", orig_flow=Inner))


class Outer(Flow[Work]):
    """Flows in a flow."""

    @start()
    def plain(self) -> str:
        inner = Inner()
        said = str(inner.kickoff(inputs={"topic": self.state.topic}))
        self.state.results["plain"] = f"{said} {inner.state.drafts}"
        return said

    @listen(plain)
    async def awaited(self) -> str:
        said = str(await Inner().kickoff_async(inputs={"topic": "badgers"}))
        self.state.results["awaited"] = said
        return said

    @listen(awaited)
    def durable(self) -> str:
        said = str(_inner().kickoff(inputs={"topic": self.state.topic}))
        self.state.results["durable"] = said
        return said


@DBOS.step()
def stamp(what: str) -> str:
    report_effect("stamp", what=what)
    return f"stamped {what}"


@DBOS.step()
async def seal(what: str) -> str:
    report_effect("seal", what=what)
    return f"sealed {what}"


@DBOS.workflow()
def publish_all(what: str) -> str:
    return stamp(f"all {what}")


class OwnSteps(Flow[Work]):
    """DBOS in methods that run side by side."""

    @start()
    def one(self) -> None:
        self.state.results["one"] = stamp("one") + stamp("more of one")
        DBOS.sleep(0.01)

    @start()
    async def two(self) -> None:
        self.state.results["two"] = await seal("two") + await seal("more of two")

    @start()
    def three(self) -> None:
        # A child is named by the number of its step, which here depends on who is faster.
        with SetWorkflowID(f"{DBOS.workflow_id}/three"):
            self.state.results["three"] = publish_all("three")

    @listen(and_(one, two, three))
    def last(self) -> str:
        DBOS.send(DBOS.workflow_id or "", "to myself", topic="note")
        note = DBOS.recv("note", timeout_seconds=10)
        return stamp(f"{note} {sorted(self.state.results.values())}")


class Crowd(Flow[Work]):
    """Calls at the same time inside one method."""

    @start()
    async def tasks(self) -> None:
        said = await asyncio.gather(*(model().acall(f"Task {n}") for n in range(3)))
        self.state.results["tasks"] = " ".join(map(str, said))

    @listen(tasks)
    def threads(self) -> None:
        with ThreadPoolExecutor(3) as pool:
            said = list(pool.map(lambda n: say(f"Thread {n}"), range(3)))
            done = list(pool.map(lambda n: crewai_dbos.step(deliver, n), range(3)))
        self.state.results["threads"] = " ".join([*said, *done])


def deliver(number: int) -> str:
    report_effect("deliver", number=number)
    return f"delivered {number}"


def served(what: str) -> str:
    said = ask_model(what)
    return f"{said} {crewai_dbos.step(deliver, len(what))}"


clerk = Worker(ask=served)
"""Its thread is started by whichever method is the first to need it, and does not end."""


class Served(Flow[Work]):
    """Methods side by side with one worker thread, and with threads of their own."""

    @start()
    def one(self) -> None:
        self.state.results["one"] = clerk("first")

    @start()
    def two(self) -> None:
        said: list[str] = []
        threads = [
            threading.Thread(target=lambda n=n: said.append(clerk(f"{n} is next")))
            for n in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.state.results["two"] = " ".join(sorted(said))

    @listen(and_(one, two))
    def last(self) -> str:
        return clerk(str(sorted(self.state.results.items())))


class Values(Flow[Work]):
    """The clock and chance."""

    @start()
    def draw(self) -> str:
        moment, chance = crewai_dbos.now(), crewai_dbos.random()
        assert 0 <= chance < 1
        assert isinstance(moment, datetime)
        drawn = f"{moment} {chance} {crewai_dbos.uuid4()}"
        self.state.results["again"] = f"{crewai_dbos.uuid4()}"
        report_effect("drawn", what=drawn)
        return str(say(f"Drawn {drawn}") == f"<Drawn {drawn}>")


# What a flow keeps -------------------------------------------------------------------


class Opaque:
    """Something without a JSON form."""

    def __init__(self, said: str) -> None:
        self.said = said
        self.lock = threading.Lock()


class Attributes(Flow[Work]):
    """Things in attributes, some of which can't be stored."""

    def __init__(self, **data: Any) -> None:
        super().__init__(**data)
        self.count = 0

    @start()
    def one(self) -> None:
        self.count += 1
        self.notes = [say("Note one")]

    @listen(one)
    def two(self) -> Opaque:
        self.count += 1
        self.notes.append("two")
        self.opaque = Opaque(say("Opaque"))
        return self.opaque

    @listen(two)
    def three(self, opaque: Opaque) -> str:
        assert opaque.said == self.opaque.said
        return say(f"Three {self.count} {self.notes} {opaque.said}")


class Started(BaseModel):
    topic: str = ""
    begun: datetime = Field(default_factory=datetime.now)
    said: str = ""


class Clocked(Flow[Started]):
    """A state whose defaults are no run's but its own."""

    @start()
    def one(self) -> None:
        report_effect("begun", at=str(self.state.begun), id_known=bool(self.state.id))
        say("One")

    @listen(one)
    def two(self) -> str:
        report_effect("begun", at=str(self.state.begun), id_known=bool(self.state.id))
        return say("Two")


# People ------------------------------------------------------------------------------


class Reviewer:
    """Answers at once, and tells of every question."""

    def request_feedback(self, context: Any, flow: Any) -> str:
        report_effect("asked", method=context.method_name, output=str(context.method_output))
        return "not yet" if "Draft 1" in str(context.method_output) else "fine"


class AwaitedReviewer:
    async def request_feedback(self, context: Any, flow: Any) -> str:
        report_effect("asked", method=context.method_name, output=str(context.method_output))
        await asyncio.sleep(0)
        return "good"


class Reviewed(Flow[Draft]):
    @start("revise")
    @human_feedback(
        message="Is it good?",
        emit=["good", "revise"],
        llm="openai/gpt-4o-mini",
        provider=Reviewer(),
    )
    def draft(self) -> str:
        self.state.rounds += 1
        said = say(f"Draft {self.state.rounds}")
        self.state.drafts.append(said)
        return said

    @listen("good")
    @human_feedback(message="How was it?", provider=AwaitedReviewer())
    def publish(self, feedback: HumanFeedbackResult) -> str:
        return say(f"Publish {feedback.output} {feedback.feedback}")

    @listen(publish)
    def last(self, feedback: HumanFeedbackResult) -> str:
        report_effect("last", at=str(feedback.timestamp))
        return f"{feedback.feedback} {feedback.output} {len(self.human_feedback_history)}"


def _reviewing(request: Request) -> Reply:
    if request.schema_name == "FeedbackOutcome":
        return structured({"outcome": "revise" if "not yet" in request.last_user_text else "good"})
    return echo(request)


class Console:
    def request_input(self, message: str, flow: Any, metadata: Any = None) -> str:
        report_effect("input", message=message)
        return f"an answer to {message}"


class Asking(Flow[Work]):
    input_provider: Any = Console()

    @start()
    def one(self) -> None:
        self.state.results["first"] = str(self.ask("What?"))
        self.state.results["said"] = say(self.state.results["first"])
        self.state.results["second"] = str(self.ask("And then?", timeout=30))

    @listen(one)
    def two(self) -> str:
        return say(self.state.results["second"])


# Memory ------------------------------------------------------------------------------


_next_method = threading.Event()


def _slow_embed(texts: list[str]) -> list[list[float]]:
    """Not done before the next method, where that does not wait for it."""
    if len(texts) > 1:
        _next_method.wait(0.5)
    return embed(texts)


class Remembering(Flow[Work]):
    @start()
    def learn(self) -> None:
        self.remember("Otters hold hands.", scope="/animals", categories=["otters"], importance=0.5)
        self.state.results["learnt"] = say("Learnt")

    @listen(learn)
    def learn_more(self) -> None:
        # In the background: the method has returned before they are saved.
        self.remember(
            ["Otters swim.", "Otters sleep."],
            scope="/animals",
            categories=["otters"],
            importance=0.5,
        )

    @listen(learn_more)
    def recall_it(self) -> str:
        _next_method.set()
        found = self.recall("otters", depth="shallow")
        self.state.results["recalled"] = " ".join(sorted(match.record.content for match in found))
        return say(f"Recalled {self.state.results['recalled']}")


def remembering() -> Any:
    memory = Memory(llm=model(), embedder=_slow_embed, storage=f"{folder()}/memory")
    return Remembering(memory=memory)


# Persistence -------------------------------------------------------------------------


class Kept(BaseModel):
    id: str = ""
    topic: str = ""
    said: list[str] = Field(default_factory=list)


class _Persistence(SQLiteFlowPersistence):
    """In the folder of the run."""

    def __init__(self, **data: Any) -> None:
        super().__init__(db_path=str(folder() / "states.db"))

    def save_state(self, flow_uuid: str, method_name: str, state_data: Any) -> None:
        report_effect("saved", method=method_name, said=len(dict(state_data).get("said", ())))
        super().save_state(flow_uuid, method_name, state_data)


def persisting() -> Any:
    @persist(_Persistence())
    class Persisting(Flow[Kept]):
        @start()
        def one(self) -> None:
            self.state.said.append(say("One"))

        @listen(one)
        def two(self) -> str:
            self.state.said.append(say("Two"))
            return " ".join(self.state.said)

    return Persisting()


SCENARIOS: dict[str, Scenario] = {
    "sequence": Scenario(Sequence, echo),
    "untyped": Scenario(Untyped, echo),
    "parallel": Scenario(Parallel, echo),
    "or": Scenario(Or, echo),
    "loop": Scenario(Loop, echo),
    "teams": Scenario(Teams, by_role(Researcher=turns(search_for_it), Clerk=turns(search_for_it))),
    "flows": Scenario(Outer, echo),
    "awaiting": Scenario(Awaiting, echo),
    "own steps": Scenario(OwnSteps, echo, better=True, shared_state=True),
    "crowd": Scenario(Crowd, echo, better=True),
    "served": Scenario(Served, echo, better=True),
    "values": Scenario(Values, echo, racing=True, unequal=("results",)),
    "attributes": Scenario(Attributes, echo),
    "clocked": Scenario(Clocked, echo, racing=True, unequal=("begun",)),
    "reviewed": Scenario(Reviewed, _reviewing),
    "asking": Scenario(Asking, echo),
    "persisting": Scenario(persisting, echo),
    "remembering": Scenario(remembering, echo, racing=True, shared_state=True),
}
