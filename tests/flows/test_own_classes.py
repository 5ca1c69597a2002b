"""What a program's own classes and objects do in the methods of a flow, as they do without us."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from crewai import LLM, Agent, Crew
from crewai.flow.flow import Flow, listen, start
from crewai.flow.human_feedback import HumanFeedbackResult, human_feedback
from crewai.lite_agent import LiteAgent
from crewai.tools import BaseTool, tool
from crewai.tools.base_tool import Tool
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSCrew, StepConfig
from crewai_dbos._dbos_seam import steps
from crewai_dbos._dbos_seam.instance import engine
from crewai_dbos.errors import DriftError, RunCancelledError
from crewai_dbos.testing import Reply, Request, react_answer, react_call, text
from crews.scenarios import agent, model, task
from flows.scenarios import say
from flows.test_runs import durable
from people.conftest import until
from support.serving import Serve

did: list[str] = []


@pytest.fixture(autouse=True)
def forgetful() -> None:
    did.clear()


# Tools that are bound -----------------------------------------------------------------------


@tool
def pay(amount: str) -> str:
    """Pay it."""
    did.append(f"paid {amount}")
    return f"paid {amount}"


def pays(request: Request) -> Reply:
    if "paid 7" in str(request.messages):
        return react_answer("It is paid.")
    if "Pay" in str(request.messages):
        return react_call("pay", {"amount": "7"})
    return text("then")


def lite_agent() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        llm = LLM(model="openai/gpt-4o-mini")
        return LiteAgent(role="R", goal="G", backstory="B", llm=llm, tools=[pay])


class Lite(Flow[Any]):
    def __init__(self) -> None:
        super().__init__()
        self.made_before = made_before[0]

    @start()
    def begin(self) -> list[str]:
        return [lite_agent().kickoff("Pay now.").raw, self.made_before.kickoff("Pay too.").raw]

    @listen(begin)
    def bound(self, said: list[str]) -> list[str]:
        return [*said, str(pay.to_structured_tool().invoke({"amount": "8"})), say("then")]


made_before: list[Any] = []


def test_tools_that_something_has_bound_are_recorded(serve: Serve) -> None:
    serve(pays)
    made_before[:] = [lite_agent()]
    expected = ["It is paid.", "It is paid.", "paid 8", "then"]
    from_everywhere(durable(Lite), expected, ["paid 7", "paid 7", "paid 8"])


# Tools that are awaited ------------------------------------------------------------------


class Mail(BaseTool):
    name: str = "mail"
    description: str = "Send a mail."

    def _run(self, to: str) -> str:
        did.append(f"mailed {to} from a thread")
        return "sent"

    async def _arun(self, to: str) -> str:
        did.append(f"mailed {to}")
        return f"sent, {say(f'to {to}')}"


@tool
async def ping(host: str) -> str:
    """Ping a host."""
    did.append(f"pinged {host}")
    await asyncio.sleep(0)
    return f"{host} is there"


@tool
@DBOS.step()
async def stamp(what: str) -> str:
    """Stamp something."""
    did.append(f"stamped {what}")
    return f"stamped {what}"


@tool
def look(what: str) -> str:
    """Look at something."""
    return what


class Awaiting(Flow[Any]):
    @start()
    async def one(self) -> list[Any]:
        return [await Mail().arun(to="ann"), *await asyncio.gather(*map(self.two, "ab"))]

    async def two(self, host: str) -> Any:
        return [await ping.arun(host=host), await stamp.arun(what=host)]

    @listen(one)
    async def three(self, said: list[Any]) -> list[Any]:
        with pytest.raises(NotImplementedError, match="does not have an async function"):
            await look.arun(what="it")
        return [*said, say("three")]


def test_tools_that_are_awaited_are_recorded(serve: Serve) -> None:
    serve()
    expected = Awaiting().kickoff()
    effects = sorted(did)
    did.clear()
    flow = durable(Awaiting, tool_step_config=StepConfig())
    from_everywhere(flow, expected, effects)


def from_everywhere(flow: Any, expected: Any, effects: list[str] | None = None) -> None:
    """A run comes to what is expected, and so does one that goes on after each of its entries."""
    with SetWorkflowID(flow.flow_name):
        assert flow.kickoff() == expected
    if effects is not None:
        assert sorted(did) == effects
    for step in DBOS.list_workflow_steps(flow.flow_name):
        did.clear()
        fork = DBOS.fork_workflow(flow.flow_name, step["function_id"] + 1)
        found = flow.retrieve(fork.get_workflow_id()).get_result()
        assert found == expected, step["function_name"]
    if effects is not None:
        assert did == [], "after the last entry nothing is left to do"


class Impatient(Flow[Any]):
    @start()
    async def begin(self) -> str:
        try:
            await asyncio.wait_for(slow.arun(what="it"), 0.2)
        except asyncio.TimeoutError:
            return say("too late")
        return "in time"


@tool
async def slow(what: str) -> str:
    """Take long."""
    did.append(say(what))
    await asyncio.sleep(30)
    return what


def test_one_that_its_caller_gives_up_is_given_up_again(serve: Serve) -> None:
    serve()
    flow = durable(Impatient, tool_step_config=StepConfig())
    from_everywhere(flow, "<too late>")


being_written = threading.Event()


class GivesUp(Flow[Any]):
    @start()
    async def begin(self) -> str:
        asking = asyncio.create_task(model().acall("first"))
        await asyncio.to_thread(being_written.wait, 30)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            return f"in time: {await asking}"
        return say("too late")


def test_a_call_that_is_given_up_while_it_is_written_is_given_up_again(serve: Serve) -> None:
    """The database is away for a moment when the answer has come."""
    serve()
    database = sqlite3.connect(str(engine().url.database), check_same_thread=False)

    def watch(moment: str, run_id: str, step_id: int, name: str) -> None:
        if moment == steps.ENDED and "/llm" in name and not being_written.is_set():
            database.execute("BEGIN EXCLUSIVE")
            threading.Timer(0.5, database.rollback).start()
            being_written.set()

    flow = durable(GivesUp)
    steps.watchers.append(watch)
    try:
        with SetWorkflowID(flow.flow_name):
            assert flow.kickoff() == "<too late>"
    finally:
        steps.watchers.remove(watch)
        database.close()
    last = DBOS.list_workflow_steps(flow.flow_name)[-1]["function_id"]
    fork = DBOS.fork_workflow(flow.flow_name, last).get_workflow_id()
    assert flow.retrieve(fork).get_result() == "<too late>"


entered = threading.Event()


@tool
async def forever(what: str) -> str:
    """Never end."""
    try:
        entered.set()
        await asyncio.Event().wait()
    finally:
        did.append("left")
    return what


class Endless(Flow[Any]):
    @start()
    async def begin(self) -> str:
        return str(await forever.arun(what="it"))


def test_one_is_cancelled_with_its_run(serve: Serve) -> None:
    serve()
    entered.clear()
    run = durable(Endless, tool_step_config=StepConfig()).start()
    assert entered.wait(60)
    DBOS.cancel_workflow(run.workflow_id)
    with pytest.raises(RunCancelledError):
        run.get_result()
    until(lambda: did == ["left"])


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return called


@tool
@wrapped
async def knock(where: str) -> str:
    """Knock somewhere."""
    did.append(f"knocked at {where}")
    return "Who is there?"


class Door(Tool[..., Any]):
    async def _arun(self, *args: Any, **kwargs: Any) -> Any:
        did.append("at the door")
        return await super()._arun(*args, **kwargs)


class Knocking(Flow[Any]):
    @start()
    async def begin(self) -> list[str]:
        door = Door(name="door", description="A door.", func=knock.func)
        return [await knock.arun(where="the gate"), await door.arun(where="the door"), say("end")]


def test_functions_that_are_wrapped_and_overrides(serve: Serve) -> None:
    serve()
    expected = Knocking().kickoff()
    effects = sorted(did)
    did.clear()
    from_everywhere(durable(Knocking, tool_step_config=StepConfig()), expected, effects)


# Methods that are overridden ---------------------------------------------------------------


class Research(Crew):
    def kickoff(self, inputs: Any = None, **options: Any) -> Any:
        did.append("crew")
        return super().kickoff(inputs={"n": inputs["n"] + 1}, **options)

    async def akickoff(self, n: int) -> Any:  # type: ignore[override]
        did.append("awaited crew")
        return await super().akickoff(inputs={"n": n + 1})


class Clerk(Agent):
    def kickoff(self, messages: Any, *args: Any, **options: Any) -> Any:
        did.append("agent")
        return super().kickoff(f"{messages}!", *args, **options)

    async def kickoff_async(self, question: str) -> Any:  # type: ignore[override]
        did.append("awaited agent")
        return await super().kickoff_async(f"{question}?")

    def execute_task(self, *args: Any, **options: Any) -> Any:
        did.append("task")
        return super().execute_task(*args, **options)


class Inner(Flow[Any]):
    async def kickoff_async(self, topic: str = "") -> Any:  # type: ignore[override]
        did.append("flow")
        return await super().kickoff_async(inputs={"topic": topic})

    @start()
    def say_it(self) -> str:
        return say(self.state["topic"])


def clerk() -> Clerk:
    return Clerk(role="Clerk", goal="Help", backstory="Diligent.", llm=model())


def research() -> Research:
    who = agent("Researcher")
    return Research(agents=[who], tasks=[task("Look at {n}", who)])


class Overriding(Flow[Any]):
    @start()
    def one(self) -> list[str]:
        again = task("It", clerk())
        return [
            research().kickoff({"n": 1}).raw,
            clerk().kickoff("Hello").raw,
            str(again.execute_sync()),
        ]

    @listen(one)
    async def two(self, said: list[str]) -> list[str]:
        return [
            *said,
            (await research().akickoff(5)).raw,
            (await clerk().kickoff_async("Hello")).raw,
            str(await Inner().kickoff_async("otters")),
        ]


def test_an_override_of_a_kickoff_runs_once(serve: Serve) -> None:
    serve()
    expected = Overriding().kickoff()
    effects = sorted(did)
    did.clear()
    from_everywhere(durable(Overriding), expected, effects)


# What is changed on an object ----------------------------------------------------------------


def test_what_is_set_on_an_llm_between_two_calls_counts(serve: Serve) -> None:
    class Warming(Flow[Any]):
        @start()
        def go(self) -> None:
            llm = model()
            llm.temperature = 0.25
            llm.call("cold")
            llm.temperature = 0.75
            llm.call("hot")

    server = serve()
    durable(Warming).kickoff()
    assert [request.body["temperature"] for request in server.requests] == [0.25, 0.75]


def crew_from_everywhere(name: str, crew: Callable[[], Crew]) -> list[str]:
    """As `from_everywhere`, of a crew. Returns what its tasks have come to."""

    def outputs(done: Any) -> list[str]:
        return [each.raw for each in done.tasks_output]

    expected = outputs(crew().kickoff())
    ours = DBOSCrew(crew_name=name, orig_crew=crew)
    with SetWorkflowID(name):
        assert outputs(ours.kickoff()) == expected
    for step in DBOS.list_workflow_steps(name):
        fork = DBOS.fork_workflow(name, step["function_id"] + 1)
        found = ours.retrieve(fork.get_workflow_id()).get_result()
        assert outputs(found) == expected, step["function_name"]
    return expected


def test_a_task_that_is_there_twice_is_carried_out_twice(serve: Serve) -> None:
    def crew() -> Crew:
        who = agent("Writer")
        draft = task("Draft", who)
        review, end = task("Review", who), task("End", who)
        end.context = [draft, review]
        return Crew(agents=[who], tasks=[draft, review, draft, end])

    serve()
    assert len(crew_from_everywhere("twice", crew)) == 4
    names = [step["function_name"] for step in DBOS.list_workflow_steps("twice")]
    assert any("/task:3#1/" in name for name in names), "each has a place of its own"


def test_what_a_step_callback_changes_of_the_last_step_is_the_answer(serve: Serve) -> None:
    def masking(step: Any) -> None:
        step.output = step.output.replace("4711", "****")

    def crew() -> Crew:
        who = agent("Writer", tools=[look])
        tasks = [task("Say 4711", who), task("Say it again", who)]
        return Crew(agents=[who], tasks=tasks, step_callback=masking)

    serve()
    assert "****" in crew_from_everywhere("masked", crew)[0]


class Sorting(Flow[Any]):
    @start()
    def one(self) -> None:
        self.state["scores"] = {"x": 1, "y": 9}

    @listen(one)
    def two(self) -> None:
        by_score = sorted(self.state["scores"].items(), key=lambda pair: -pair[1])
        self.state["scores"] = dict(by_score)

    @listen(two)
    def three(self) -> str:
        say("three")
        return str(next(iter(self.state["scores"])))


def test_a_dict_keeps_the_order_that_a_method_gave_it(serve: Serve) -> None:
    serve()
    from_everywhere(durable(Sorting), "y")


# What can't be stored ------------------------------------------------------------------------


class Reviewer:
    def request_feedback(self, context: Any, flow: Any) -> str:
        did.append("asked")
        return "good"


class Locked(Flow[Any]):
    @start()
    @human_feedback(message="Good?", provider=Reviewer())
    def make(self) -> Any:
        return threading.Lock()

    @listen(make)
    def use(self, review: HumanFeedbackResult) -> str:
        with review.output:
            return f"{review.feedback}, {say('used')}"


def test_what_a_person_says_of_a_thing_that_can_not_be_stored_is_kept(serve: Serve) -> None:
    serve()
    from_everywhere(durable(Locked), "good, <used>")
    assert did.count("asked") == 0


class Connecting(Flow[Any]):
    @start()
    def connect(self) -> Any:
        if "down" in did:
            raise ConnectionError("the database is away")
        return threading.Lock()

    @listen(connect)
    def work(self, lock: Any) -> str:
        with lock:
            return say("work")


def test_a_method_that_fails_when_it_is_run_again_stops_the_run(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody goes on with nothing in place of what it had returned."""
    serve()
    flow = durable(Connecting)
    with SetWorkflowID(flow.flow_name):
        assert flow.kickoff() == "<work>"
    did.append("down")
    (end,) = (
        step["function_id"]
        for step in DBOS.list_workflow_steps(flow.flow_name)
        if "connect" in step["function_name"] and "/outcome#" in step["function_name"]
    )
    fork = DBOS.fork_workflow(flow.flow_name, end + 1).get_workflow_id()
    with pytest.raises(DriftError, match=r"'connect' .*ConnectionError: the database is away"):
        flow.retrieve(fork).get_result()
    did.clear()
    DBOS.resume_workflow(fork)
    assert flow.retrieve(fork).get_result() == "<work>"
