"""Budgets: at the limit no further request is sent, and the run stops or asks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from itertools import product
from queue import Queue
from typing import Any

import pytest
from crewai import LLM, Agent, Crew, Task
from crewai.flow.flow import Flow, and_, listen, start
from crewai.llms.base_llm import BaseLLM
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID
from dbos import error as dbos_errors
from typer.testing import CliRunner

from crewai_dbos import (
    DBOSLLM,
    Budget,
    DBOSAgent,
    DBOSCrew,
    DBOSFlow,
    People,
    SetBudget,
)
from crewai_dbos.cli import app
from crewai_dbos.control import Approve, Control, Price, Reject, Reply
from crewai_dbos.doctor import inspect
from crewai_dbos.errors import (
    BatchError,
    BudgetExceeded,
    DefinitionError,
    InvalidAnswer,
    OutsideRunError,
    RequestExpired,
    RunCancelledError,
    RunNotFoundError,
    RunStoppedError,
)
from crewai_dbos.testing import ModelServer, Request, ToolCall, text, tool_calls
from people.conftest import Called, Desk, status, until
from support.databases import both_here, some_here
from support.names import unique
from support.serving import serving

QUICK = People(linger=0.05)
ONE = Budget(tokens=1)
ASKING = Budget(tokens=1, on_limit="ask")
PLENTY = 10**9

BOTH = both_here("url")


@pytest.fixture
def desk(control: Control) -> Desk:
    return Desk(control)


class Model:
    """A model, and what it was asked since `forget`."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self._since = 0

    @property
    def requests(self) -> list[Request]:
        return self._server.requests[self._since :]

    def forget(self) -> None:
        self._since = len(self._server.requests)


Serve = Callable[..., Model]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, url: str) -> Iterator[Serve]:
    default = lambda request: text(f"done {request.last_user_text[:30]}")  # noqa: E731
    for served in serving(monkeypatch, default):
        yield partial(_model, served)


def _model(served: Callable[..., Any], *script: Any) -> Model:
    return Model(served(*script))


def build(*tasks: str, beside: int = 0, tools: Any = (), **agent: Any) -> Crew:
    """A crew with a task for each text, the last `beside` of which but one run side by side."""
    clerk = Agent(
        role="Clerk", goal="Write", backstory="Old.", llm="gpt-4o-mini", tools=list(tools), **agent
    )
    last = len(tasks) - 1
    jobs = [
        Task(
            description=description,
            expected_output="A line.",
            agent=clerk,
            async_execution=last - beside <= number < last,
            context=[],
        )
        for number, description in enumerate(tasks)
    ]
    return Crew(agents=[clerk], tasks=jobs)


def crew(*tasks: str, beside: int = 0, tools: Any = (), **options: Any) -> DBOSCrew:
    return DBOSCrew(
        crew_name=unique("thrifty"),
        orig_crew=lambda: build(*tasks, beside=beside, tools=tools),
        **{"people": QUICK, **options},
    )


# At the limit ------------------------------------------------------------------


def test_below_its_budget_a_run_is_as_without(serve: Serve) -> None:
    server = serve()
    plain = crew("First.", "Second.").kickoff()
    asked = [request.body for request in server.requests]
    server.forget()
    thrifty = crew("First.", "Second.", budget=Budget(tokens=PLENTY, usd=1000)).kickoff()
    assert [request.body for request in server.requests] == asked
    assert (thrifty.raw, thrifty.token_usage) == (plain.raw, plain.token_usage)


@BOTH
def test_at_the_limit_it_stops_and_goes_on_from_there_when_it_is_raised(
    serve: Serve, control: Control
) -> None:
    server = serve()
    thrifty, run_id = crew("First.", "Second.", "Third.", budget=ONE), unique("run")
    with SetWorkflowID(run_id), pytest.raises(BudgetExceeded) as stopped:
        thrifty.kickoff()
    assert len(server.requests) == 1
    used = control.cost_of(run_id).tokens.total
    assert (stopped.value.limit, stopped.value.used, stopped.value.unit) == (1, used, "tokens")
    command = f"crewai-dbos runs raise-budget {run_id} --tokens {used + 1}"
    assert f"Raise it: {command} (more than {used:,} tokens)" in str(stopped.value)
    with pytest.raises(BudgetExceeded) as again:
        thrifty.retrieve(run_id).get_result()
    assert vars(again.value)["used"] == used
    assert status(run_id) == "CANCELLED"
    DBOS.resume_workflow(run_id)
    until_ended(run_id)
    with pytest.raises(BudgetExceeded):
        thrifty.retrieve(run_id).get_result()
    assert len(server.requests) == 1
    for wrong in ({"tokens": used}, {"usd": 5}, {"tokens": -1}, {}):
        with pytest.raises(InvalidAnswer, match=f"Give a limit above that: {command}"):
            control.raise_budget(run_id, **wrong)  # type: ignore[arg-type]
    control.raise_budget(run_id, tokens=PLENTY)
    DBOS.resume_workflow(run_id)
    assert thrifty.retrieve(run_id).get_result().raw.startswith("done")
    assert len(server.requests) == 3
    with pytest.raises(InvalidAnswer, match="has not stopped at a budget"):
        control.raise_budget(run_id, tokens=PLENTY)
    with pytest.raises(RunNotFoundError):
        control.raise_budget("nobody", tokens=PLENTY)


def until_ended(run_id: str) -> None:
    until(lambda: status(run_id) in ("CANCELLED", "SUCCESS", "ERROR"))


@BOTH
def test_it_asks_and_goes_on_as_is_said(serve: Serve, desk: Desk, control: Control) -> None:
    server = serve()
    run = crew("First.", "Second.", "Third.", budget=ASKING).start()
    request = desk.next(run.workflow_id)
    used = control.cost_of(run.workflow_id).tokens.total
    assert (request.kind, request.state) == ("budget", "open")
    assert (
        f"has used {used:,} tokens, with a limit of 1 token. Raise it to"
        in request.question.message
    )
    assert request.question.arguments == {"tokens": used + 1}
    desk.parked(run.workflow_id)
    assert len(server.requests) == 1
    for wrong in (used, "many", 7.5):
        with pytest.raises(InvalidAnswer, match="The limit of request"):
            control.answer(request.request_id, Approve(arguments={"tokens": wrong}))
    with pytest.raises(InvalidAnswer, match="has no limit 'usd'"):
        control.answer(request.request_id, Approve(arguments={"usd": 3}))
    with pytest.raises(
        InvalidAnswer, match=r"about a budget, which is answered with Approve .* or Reject"
    ):
        control.answer(request.request_id, Reply("yes"))
    control.answer(request.request_id, Approve(), by="ann")
    second = desk.next(run.workflow_id, state="open")
    assert second.request_id != request.request_id
    assert len(server.requests) == 2
    control.answer(second.request_id, Approve(arguments={"tokens": PLENTY}), by="ann")
    expected = run.get_result().raw
    assert len(server.requests) == 3
    assert [r.state for r in control.requests(run_id=run.workflow_id, only_open=False)] == [
        "used",
        "used",
    ]
    steps = DBOS.list_workflow_steps(run.workflow_id)
    asked = [step["function_name"] for step in steps if step["function_name"].count("/") == 1]
    assert [name for name in asked if "budget#" in name] == [
        name for name in asked if name.endswith(("/budget#1", "/budget#2"))
    ]
    server.forget()
    fork = DBOS.fork_workflow(run.workflow_id, steps[-1]["function_id"] + 1)
    fork.get_result()
    assert server.requests == []
    assert control.cost_of(fork.workflow_id).tokens.requests == 3
    assert run.get_result().raw == expected


def test_forks_from_every_entry_know_the_raised_limit(serve: Serve, desk: Desk) -> None:
    server = serve()
    run = crew("First.", "Second.", "Third.", budget=ASKING).start()
    desk.answer(run.workflow_id, Approve(arguments={"tokens": PLENTY}))
    run.get_result()
    ids = {s["function_name"]: s["function_id"] for s in DBOS.list_workflow_steps(run.workflow_id)}
    [asked] = [step for name, step in ids.items() if name.endswith("/budget#1")]
    llms = [step for name, step in ids.items() if name.endswith("/llm#1")]
    for step in ids.values():
        server.forget()
        fork = DBOS.fork_workflow(run.workflow_id, step + 1)
        if step < asked:
            desk.answer(fork.workflow_id, Approve(arguments={"tokens": PLENTY}))
        fork.get_result()
        recorded = sum(llm <= step for llm in llms)
        assert len(server.requests) == 3 - recorded


def test_whoever_rejects_stops_the_run_which_asks_anew_when_it_is_resumed(
    serve: Serve, desk: Desk, control: Control
) -> None:
    server = serve()
    run = crew("First.", "Second.", budget=ASKING).start()
    desk.answer(run.workflow_id, Reject("Too dear."), by="ann")
    with pytest.raises(BudgetExceeded, match=r"ann does not raise it: Too dear\.") as stopped:
        run.get_result()
    assert stopped.value.limit == 1
    assert len(server.requests) == 1
    DBOS.resume_workflow(run.workflow_id)
    request = desk.answer(run.workflow_id, Approve(arguments={"tokens": PLENTY}), state="open")
    assert request.question.arguments == {"tokens": stopped.value.used + 1}  # type: ignore[operator]
    run.get_result()
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("on_deadline", "ends"), [("reject", BudgetExceeded), ("fail", RunStoppedError)]
)
def test_nobody_answers_in_time(serve: Serve, on_deadline: Any, ends: type[Exception]) -> None:
    server = serve()
    soon = People(linger=0.05, deadline=timedelta(seconds=0.3), on_deadline=on_deadline)
    with pytest.raises(ends, match="answered in time"):
        crew("First.", "Second.", budget=ASKING, people=soon).kickoff()
    assert len(server.requests) == 1


def test_a_deadline_may_approve(serve: Serve) -> None:
    server = serve()
    soon = People(linger=5, deadline=timedelta(seconds=0.3), on_deadline="approve")
    crew("First.", "Second.", "Third.", budget=ASKING, people=soon).kickoff()
    assert len(server.requests) == 3


# What counts ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asynchronous", "url"),
    some_here(
        product([False, True], ["sqlite", "postgres"]), [(False, "postgres"), (True, "sqlite")]
    ),
    indirect=["url"],
)
def test_branches_that_reach_the_limit_together_ask_once(
    serve: Serve, desk: Desk, control: Control, asynchronous: bool
) -> None:
    server = serve()
    thrifty = crew("First.", "Second.", "Third.", "Fourth.", beside=2, budget=ASKING)
    run_id = unique("run")

    async def arun() -> Any:
        with SetWorkflowID(run_id):
            return await thrifty.akickoff()

    if asynchronous:
        called = Called(lambda: asyncio.run(arun()))
    else:
        with SetWorkflowID(run_id):
            handle = thrifty.start()
    desk.next(run_id)
    desk.parked(run_id)
    assert len(server.requests) == 1
    assert len(control.requests(run_id=run_id)) == 1
    desk.answer(run_id, Approve(arguments={"tokens": PLENTY}))
    result = called.result() if asynchronous else handle.get_result()
    assert result.raw.startswith("done")
    assert len(server.requests) == 4
    assert len(control.requests(run_id=run_id, only_open=False)) == 1


def test_branches_that_reach_the_limit_together_stop_the_run(serve: Serve) -> None:
    server = serve()
    with pytest.raises(BudgetExceeded):
        crew("First.", "Second.", "Third.", "Fourth.", beside=2, budget=ONE).kickoff()
    assert len(server.requests) == 1


def test_methods_of_a_flow_at_the_same_time_ask_once(
    serve: Serve, desk: Desk, control: Control
) -> None:
    server = serve()

    class Both(Flow[dict[str, Any]]):
        @start()
        def first(self) -> str:
            return str(LLM(model="gpt-4o-mini").call("First."))

        @listen(first)
        def left(self) -> str:
            return str(LLM(model="gpt-4o-mini").call("Left."))

        @listen(first)
        async def right(self) -> str:
            return str(await LLM(model="gpt-4o-mini").acall("Right."))

        @listen(and_(left, right))
        def last(self) -> str:
            return "both"

    flow = DBOSFlow(flow_name=unique("flow"), orig_flow=Both, people=QUICK, budget=ASKING)
    run = flow.start()
    desk.next(run.workflow_id)
    desk.parked(run.workflow_id)
    assert (len(server.requests), len(control.requests(run_id=run.workflow_id))) == (1, 1)
    desk.answer(run.workflow_id, Approve(arguments={"tokens": PLENTY}))
    assert run.get_result() == "both"
    assert len(server.requests) == 3
    assert len(control.requests(run_id=run.workflow_id, only_open=False)) == 1


def test_a_cancelled_run_does_not_wait_on(serve: Serve, desk: Desk) -> None:
    server = serve()
    run = crew("First.", "Second.", budget=ASKING, people=People(linger=60)).start()
    request = desk.next(run.workflow_id)
    DBOS.cancel_workflow(run.workflow_id)
    with pytest.raises(RunCancelledError):
        run.get_result()
    with pytest.raises(RequestExpired):
        desk.control.answer(request.request_id, Approve())
    assert len(server.requests) == 1


def delegating(request: Request) -> Any:
    if request.tools and not request.tool_results:
        task = {"task": "Look it up.", "context": "None.", "coworker": "Helper"}
        return tool_calls(ToolCall("delegate_work_to_coworker", task))
    return text("Found.")


def test_what_a_coworker_uses_counts(serve: Serve, control: Control) -> None:
    server = serve(delegating)

    def both() -> Crew:
        boss = Agent(
            role="Boss", goal="Lead", backstory="B.", llm="gpt-4o-mini", allow_delegation=True
        )
        helper = Agent(role="Helper", goal="Help", backstory="H.", llm="gpt-4o-mini")
        task = Task(description="Go.", expected_output="A line.", agent=boss)
        return Crew(agents=[boss, helper], tasks=[task])

    def with_budget(budget: Budget | None) -> DBOSCrew:
        return DBOSCrew(crew_name=unique("boss"), orig_crew=both, budget=budget)

    run_id = unique("run")
    with SetWorkflowID(run_id):
        with_budget(None).kickoff()
    assert len(server.requests) == 3
    whole = control.cost_of(run_id).tokens.total
    server.forget()
    with pytest.raises(BudgetExceeded, match="has used"):
        # Reached by what the helper has used.
        with_budget(Budget(tokens=1)).kickoff()
    assert len(server.requests) == 1
    server.forget()
    with_budget(Budget(tokens=whole)).kickoff()
    assert len(server.requests) == 3


def test_what_a_tool_asks_an_llm_counts(serve: Serve) -> None:
    def script(request: Request) -> Any:
        if request.tools and not request.tool_results:
            return tool_calls(ToolCall("think", {"about": "otters"}))
        return text("Thought.")

    server = serve(script)
    llm = DBOSLLM("gpt-4o-mini")

    @tool("think")
    def think(about: str) -> str:
        """Think about something."""
        return str(llm.call(f"What about {about}?"))

    with pytest.raises(BudgetExceeded):
        crew("Go.", tools=[think], budget=ONE).kickoff()
    assert len(server.requests) == 1


def flow_of(inner: DBOSCrew, **options: Any) -> DBOSFlow:
    """A flow of the crew twice, one after the other."""

    class Nested(Flow[dict[str, Any]]):
        @start()
        def one(self) -> str:
            return str(inner.kickoff({"which": "one"}).raw)

        @listen(one)
        def two(self) -> str:
            return str(inner.kickoff({"which": "two"}).raw)

    return DBOSFlow(flow_name=unique("flow"), orig_flow=Nested, **{"people": QUICK, **options})


def test_a_flow_counts_what_its_crews_use(serve: Serve) -> None:
    server = serve()
    with pytest.raises(BudgetExceeded, match=r"limit of 1 token \(flow:") as stopped:
        flow_of(crew("First {which}."), budget=ONE).kickoff()
    assert len(server.requests) == 1
    assert "crew:" not in (stopped.value.path or "")


def test_a_crew_in_a_flow_counts_for_itself(serve: Serve, desk: Desk) -> None:
    """Each time that it is kicked off, beside the flow."""
    server = serve()
    inner = crew("First {which}.", budget=ONE)
    flow_of(inner, budget=Budget(tokens=PLENTY)).kickoff()
    assert len(server.requests) == 2
    server.forget()
    inner = crew("First {which}.", "Second {which}.", budget=ASKING)
    run = flow_of(inner, budget=Budget(tokens=PLENTY)).start()
    paths = []
    for number in (1, 2):
        request = desk.answer(run.workflow_id, Approve(arguments={"tokens": PLENTY}), state="open")
        paths.append(request.path)
        if number == 1:
            until(lambda: len(server.requests) >= 3)
    run.get_result()
    assert len(server.requests) == 4
    assert ["method:one" in path or "method:two" in path for path in paths] == [True, True]
    assert paths[0] != paths[1]


def test_an_agent_has_a_budget_of_its_own_in_a_crew(serve: Serve) -> None:
    def script(request: Request) -> Any:
        if request.tools and not request.tool_results:
            return tool_calls(ToolCall("look", {"at": "otters"}))
        return text("Seen.")

    server = serve(script)

    @tool("look")
    def look(at: str) -> str:
        """Look at something."""
        return at

    agent = DBOSAgent(
        agent_name=unique("clerk"),
        orig_agent=Agent(
            role="Clerk", goal="Look", backstory="O.", llm="gpt-4o-mini", tools=[look]
        ),
        budget=ONE,
    )
    with pytest.raises(BudgetExceeded):
        agent.kickoff("Look.")
    assert len(server.requests) == 1
    task = Task(description="Look.", expected_output="A line.", agent=agent)
    whole = DBOSCrew(crew_name=unique("crew"), orig_crew=Crew(agents=[agent], tasks=[task]))
    server.forget()
    with pytest.raises(BudgetExceeded, match="agent:"):
        whole.kickoff()
    assert len(server.requests) == 1


def test_each_item_of_a_batch_counts_for_itself(serve: Serve) -> None:
    server = serve()
    outputs = crew("First {n}.", budget=ONE).kickoff_for_each([{"n": 1}, {"n": 2}])
    assert len(outputs) == len(server.requests) == 2


# Of one run ----------------------------------------------------------------------


def test_a_run_may_have_a_budget_of_its_own(
    serve: Serve, control: Control, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    thrifty, run_id = crew("First.", "Second.", budget=Budget(tokens=PLENTY)), unique("run")
    with SetWorkflowID(run_id), SetBudget(ONE), pytest.raises(BudgetExceeded):
        thrifty.kickoff()
    assert len(server.requests) == 1
    DBOS.resume_workflow(run_id)  # it is stored with the run
    until_ended(run_id)
    with pytest.raises(BudgetExceeded):
        thrifty.retrieve(run_id).get_result()
    assert len(server.requests) == 1
    with SetWorkflowID(run_id), pytest.raises(BudgetExceeded):
        thrifty.kickoff()  # asked for again, without a budget: it is the same run
    control.raise_budget(run_id, tokens=PLENTY)
    DBOS.resume_workflow(run_id)
    thrifty.retrieve(run_id).get_result()
    assert len(server.requests) == 2
    thrifty.kickoff()
    assert len(server.requests) == 4
    caplog.clear()
    with SetBudget(ONE):
        pass
    assert "the budget holds for nothing" in caplog.text


def test_a_budget_is_set_for_a_kickoff_inside_a_workflow(serve: Serve) -> None:
    server = serve()
    inner = crew("First {which}.", "Second {which}.")

    class Inside(Flow[dict[str, Any]]):
        @start()
        def free(self) -> None:
            inner.kickoff({"which": "free"})

        @listen(free)
        def limited(self) -> None:
            with SetBudget(ONE):
                inner.kickoff({"which": "limited"})

    with pytest.raises(BudgetExceeded, match="method:limited"):
        DBOSFlow(flow_name=unique("flow"), orig_flow=Inside).kickoff()
    assert len(server.requests) == 3


def test_a_budget_around_a_workflow_of_the_users_own_is_refused(serve: Serve) -> None:
    server = serve()
    inner = crew("First.")

    @DBOS.workflow(name=unique("own"))
    def own() -> str:
        return str(inner.kickoff().raw)

    with SetBudget(ONE), pytest.raises(DefinitionError, match="outside of the workflow"):
        own()
    assert server.requests == []


def test_a_workflow_of_the_users_own_hears_of_it(serve: Serve) -> None:
    server = serve()
    inner = crew("First.", "Second.", budget=ONE)
    run_id, caught = unique("own"), []

    @DBOS.workflow(name=unique("own"))
    def own() -> str:
        try:
            return str(inner.kickoff().raw)
        except BudgetExceeded as error:
            caught.append(error.used)
            raise

    with SetWorkflowID(run_id), pytest.raises(dbos_errors.DBOSAwaitedWorkflowCancelledError):
        own()
    assert len(caught) == len(server.requests) == 1
    assert status(run_id) == "CANCELLED"


def test_a_batch_gives_its_budget_to_each_item(serve: Serve) -> None:
    server = serve()
    with SetBudget(ONE), pytest.raises(BatchError) as failed:
        crew("First {n}.", "Second {n}.").kickoff_for_each([{"n": 1}, {"n": 2}])
    assert [type(error) for error in failed.value.errors.values()] == [BudgetExceeded] * 2
    assert len(server.requests) == 2


def test_a_stream_has_the_budget_that_was_set_where_it_was_asked_for(serve: Serve) -> None:
    server = serve()
    thrifty = crew("First.", "Second.")
    thrifty.stream = True
    with SetBudget(ONE):
        stream = thrifty.kickoff()
    with pytest.raises(BudgetExceeded):
        list(stream)
    assert len(server.requests) == 1


def test_work_that_its_caller_gives_up_asks_no_longer(serve: Serve, control: Control) -> None:
    server = serve()
    asked: Queue[Any] = Queue()
    people = People(linger=60, notify=asked.put)
    inner = crew("First.", "Second.", budget=ASKING, people=people)
    run_id, done = unique("own"), list[Any]()

    @DBOS.workflow(name=unique("own"))
    async def own() -> str:
        task = asyncio.ensure_future(inner.akickoff())
        await asyncio.to_thread(lambda: done or done.append(asked.get(timeout=60)))
        task.cancel()
        try:
            return str((await task).raw)
        except asyncio.CancelledError:
            return await later()

    @DBOS.step(name=unique("later"))
    async def later() -> str:
        return "without"

    async def run() -> Any:
        with SetWorkflowID(run_id):
            return await own()

    assert asyncio.run(run()) == "without"
    until(lambda: control.request(done[0].request_id).state == "withdrawn")
    assert len(server.requests) == 1
    steps = DBOS.list_workflow_steps(run_id)
    fork = DBOS.fork_workflow(run_id, steps[-1]["function_id"] + 1)
    assert fork.get_result() == "without"
    assert len(server.requests) == 1


# In money --------------------------------------------------------------------------


def test_a_limit_in_dollars(serve: Serve, control: Control) -> None:
    server = serve()
    dear = {"gpt-4o-mini": Price(prompt=10_000, completion=10_000)}
    budget = Budget(usd=0.01, prices=dear)
    run_id = unique("run")
    with SetWorkflowID(run_id), pytest.raises(BudgetExceeded) as stopped:
        crew("First.", "Second.", budget=budget).kickoff()
    assert len(server.requests) == 1
    assert (stopped.value.unit, stopped.value.limit) == ("usd", 0.01)
    assert stopped.value.used == pytest.approx(control.cost_of(run_id).tokens.total / 100)
    assert "of $0.01" in str(stopped.value)
    with SetWorkflowID(unique("run")), SetBudget(budget), pytest.raises(BudgetExceeded):
        crew("First.", "Second.").kickoff()  # prices are stored with it
    assert len(server.requests) == 2
    free = Budget(usd=0.01, prices={"gpt-4o-mini": Price(0, 0)})
    crew("First.", "Second.", budget=free).kickoff()


def test_a_limit_in_dollars_needs_prices(serve: Serve) -> None:
    server = serve()

    def unknown() -> Crew:
        clerk = Agent(role="Clerk", goal="W", backstory="O.", llm="openai/gpt-of-nobody")
        return Crew(
            agents=[clerk], tasks=[Task(description="Go.", expected_output="A", agent=clerk)]
        )

    with pytest.raises(DefinitionError, match=r"no price for model 'gpt-of-nobody'.*prices="):
        DBOSCrew(crew_name=unique("c"), orig_crew=unknown, budget=Budget(usd=1))
    late = DBOSCrew(crew_name=unique("c"), orig_crew=unknown)
    with SetBudget(Budget(usd=1)), pytest.raises(RunStoppedError, match="no price for model"):
        late.kickoff()
    assert server.requests == []


# Where it is shown -------------------------------------------------------------------


def test_the_inbox_shows_it_and_raises_it(
    serve: Serve, desk: Desk, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    monkeypatch.setenv("DBOS_SYSTEM_DATABASE_URL", url)

    def inbox(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["inbox", *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    run = crew("First.", "Second.", "Third.", budget=ASKING).start()
    request = desk.next(run.workflow_id)
    assert request.request_id[:8] in inbox("list")
    shown = inbox("show", request.request_id)
    assert "The limit would be:" in shown
    assert "tokens = " in shown
    inbox("approve", request.request_id, "--by", "ann")
    second = desk.next(run.workflow_id, state="open")
    inbox("approve", second.request_id, "--arguments", f'{{"tokens": {PLENTY}}}')
    run.get_result()
    assert len(server.requests) == 3


def test_the_doctor_says_what_a_definition_may_cost(serve: Serve) -> None:
    stops = inspect(crew("First.", budget=Budget(tokens=200_000, usd=1.5)))
    asks = inspect(flow_of(crew("First."), budget=Budget(usd=0.005, on_limit="ask")))
    items = [item.name for r in (stops, asks) for item in r.items if item.kind == "budget"]
    assert items == ["200,000 tokens or $1.50, then it stops", "$0.005, then it asks"]
    hints = [f.what for r in (stops, asks) for f in r.findings if f.rule == "waits-for-people"]
    assert hints == ["A run waits for a person: $0.005 of flow."]


# Where nothing is counted ------------------------------------------------------------


def test_a_kickoff_that_is_not_recorded_is_refused(serve: Serve) -> None:
    server = serve()
    thrifty, free = crew("First.", budget=ONE), crew("First.")

    @DBOS.step(name=unique("step"))
    def step(limited: DBOSCrew) -> str:
        return str(limited.kickoff().raw)

    @DBOS.workflow(name=unique("own"))
    def own(which: str) -> str:
        if which == "definition":
            return step(thrifty)
        with SetBudget(ONE):
            return step(free)

    for which in ("definition", "run"):
        with pytest.raises(OutsideRunError, match="its budget would not be counted"):
            own(which)
    assert server.requests == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "has a limit"),
        ({"tokens": 0}, "whole number from 1"),
        ({"tokens": True}, "whole number from 1"),
        ({"tokens": 1.5}, "whole number from 1"),
        ({"usd": 0}, "above 0"),
        ({"usd": float("nan")}, "above 0"),
        ({"usd": "1"}, "above 0"),
        ({"tokens": 1, "on_limit": "wait"}, "'fail' or 'ask'"),
        ({"tokens": 1, "prices": {"m": 1}}, "Price objects by model"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(DefinitionError, match=told):
        Budget(**options)
    for wrong in (5, "5", {"tokens": 5}):
        with pytest.raises(DefinitionError, match=r"Budget\(tokens"):
            crew("First.", budget=wrong)
        with pytest.raises(DefinitionError, match=r"Budget\(tokens"):
            SetBudget(wrong)  # type: ignore[arg-type]


def test_a_provider_that_counts_nothing_is_told_of(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    model = unique("silent")

    class Silent(BaseLLM):
        def call(self, *args: Any, **kwargs: Any) -> str:
            return "Thought: I now know the final answer\nFinal Answer: done"

    def silent() -> Crew:
        clerk = Agent(role="Clerk", goal="W", backstory="O.", llm=Silent(model=model))
        return Crew(
            agents=[clerk], tasks=[Task(description="Go.", expected_output="A", agent=clerk)]
        )

    caplog.set_level(logging.WARNING, "crewai_dbos")
    DBOSCrew(crew_name=unique("c"), orig_crew=silent, budget=ONE).kickoff()
    assert f"{model!r} does not say how many tokens" in caplog.text
