"""What runs cost: tokens of every request, once, and money where prices are known."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from crewai import LLM, Agent, Crew, Task
from crewai.llms.base_llm import BaseLLM
from crewai.tools import tool
from crewai.utilities.converter import Converter
from dbos import DBOS, SetWorkflowID
from pydantic import BaseModel
from typer.testing import CliRunner

from crewai_dbos import DBOSLLM, DBOSCrew, StepConfig
from crewai_dbos._control import cost
from crewai_dbos._objects.conversion import recording
from crewai_dbos._stored.prices import Prices, as_json, dollars
from crewai_dbos._stored.usage import Spent
from crewai_dbos.cli import app
from crewai_dbos.control import Control, Price, Tokens
from crewai_dbos.errors import DefinitionError, RunNotFoundError
from crewai_dbos.testing import ModelServer, Request, ToolCall, error, hang, text, tool_calls
from crewai_dbos.testing._openai_wire import usage
from support.databases import both_here, some_here
from support.names import unique
from support.serving import Serve, serving

BOTH = both_here("url")

ANSWER = text("one two three four")
PRICES = {"gpt-4o-mini": Price(prompt=1.0, completion=10.0)}


@pytest.fixture
def control(url: str) -> Iterator[Control]:
    with Control(url, prices=PRICES) as found:
        yield found


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    yield from serving(monkeypatch, lambda _: ANSWER)


def crew(*tasks: str, llm: Any = "gpt-4o-mini", tools: Any = (), **options: Any) -> DBOSCrew:
    def build() -> Crew:
        clerk = Agent(role="Clerk", goal="Write", backstory="Old.", llm=llm, tools=list(tools))
        jobs = [Task(description=t, expected_output="A line.", agent=clerk) for t in tasks]
        return Crew(agents=[clerk], tasks=jobs)

    return DBOSCrew(crew_name=unique("cost"), orig_crew=build, **options)


def billed(server: ModelServer) -> Tokens:
    """What the server has counted for all that it was asked, each answered with `ANSWER`."""
    counts = [usage(request, ANSWER) for request in server.requests]
    prompt = sum(each["prompt_tokens"] for each in counts)
    completion = sum(each["completion_tokens"] for each in counts)
    return Tokens(prompt + completion, prompt, completion, requests=len(counts))


@BOTH
def test_a_run_costs_what_the_provider_has_counted_and_a_replay_nothing(
    serve: Serve, control: Control
) -> None:
    server = serve()
    run = crew("First.", "Second.").start()
    run.get_result()
    found = control.cost_of(run.workflow_id)
    expected = billed(server)
    assert found.tokens == expected
    assert expected.requests == 2
    assert found.models == {"gpt-4o-mini": expected}
    assert found.usd == pytest.approx((expected.prompt + 10 * expected.completion) / 1e6)
    assert (found.unpriced, found.saved) == ((), 0)
    last = max(step["function_id"] for step in DBOS.list_workflow_steps(run.workflow_id))
    fork = DBOS.fork_workflow(run.workflow_id, last + 1)
    fork.get_result()
    replayed = control.cost_of(fork.workflow_id)
    assert (replayed.tokens, replayed.saved) == (expected, expected.total)
    assert len(server.requests) == 2


@BOTH
def test_a_fork_tells_what_it_has_taken_over(serve: Serve, url: str, control: Control) -> None:
    """The other run has paid for that: who adds up both pays once for each request."""
    server, durable, run_id = serve(), crew("a", "b"), unique("cost")
    with SetWorkflowID(run_id):
        durable.kickoff()
    before = control.cost_of(run_id)
    assert before.taken_over == Tokens()
    assert before.taken_over_usd == 0
    forks = [control.fork(run_id, at="task:2"), control.fork(run_id, at="task:1")]
    for fork in forks:
        DBOS.retrieve_workflow(fork).get_result()
    costs = [control.cost_of(each) for each in (run_id, *forks)]
    assert [cost.taken_over.requests for cost in costs] == [0, 1, 0]
    assert len(server.requests) == 5
    spent = sum(cost.tokens.total - cost.taken_over.total for cost in costs)
    assert spent == billed(server).total
    listed = {run.run_id: run for run in control.runs(definition=durable.crew_name)}
    for told, each in zip(costs, (run_id, *forks), strict=True):
        for run in (listed[each], control.run(each)):
            assert run.taken_over == told.taken_over
            assert run.taken_over_cost == told.taken_over_usd
            assert run.new_tokens == told.tokens.total - told.taken_over.total
            assert run.new_cost == pytest.approx((told.usd or 0) - (told.taken_over_usd or 0))
        parts = control.costs_of(each).values()
        assert sum((part.taken_over for part in parts), Tokens()) == told.taken_over
    # A fork of a fork has taken over what that had taken over, too.
    again = control.fork(forks[0], at="task:2")
    DBOS.retrieve_workflow(again).get_result()
    assert control.cost_of(again).taken_over == costs[1].taken_over

    command = CliRunner()
    shown = command.invoke(app, ["runs", "show", forks[0], "--db-url", url]).stdout
    new, taken = listed[forks[0]].new_tokens, costs[1].taken_over.total
    assert f"new {new:,}, taken over {taken:,}" in shown
    text_of_cost = command.invoke(app, ["runs", "cost", forks[0], "--db-url", url]).stdout
    assert "taken over" in text_of_cost
    assert "spent in the run that this is a fork of" in text_of_cost


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (None, "$ ?"),
        (0, "$0.00"),
        (0.00002, "<$0.0001"),
        (0.0123, "$0.0123"),
        (12.5, "$12.50"),
    ],
)
def test_money_is_shown_alike(amount: float | None, shown: str) -> None:
    assert dollars(amount) == shown


def test_a_run_that_goes_on_and_one_that_failed_have_a_cost(serve: Serve, control: Control) -> None:
    held = hang(ANSWER)
    server = serve(lambda request: held if "Second" in request.last_user_text else ANSWER)
    run = crew("First.", "Second.").start()
    held.wait_until_held()
    assert control.cost_of(run.workflow_id).tokens.requests == 1
    DBOS.cancel_workflow(run.workflow_id)
    held.release()
    with pytest.raises(Exception, match="cancelled"):
        run.get_result()
    assert control.cost_of(run.workflow_id).tokens.requests >= 1
    server = serve(lambda request: error(401) if "Second" in request.last_user_text else ANSWER)
    failed = crew("First.", "Second.").start()
    with pytest.raises(Exception, match="Incorrect API key"):
        failed.get_result()
    assert len(server.requests) > 1
    spent = control.cost_of(failed.workflow_id)
    assert (spent.tokens.requests, spent.saved) == (1, 0)
    last = max(step["function_id"] for step in DBOS.list_workflow_steps(failed.workflow_id))
    fork = DBOS.fork_workflow(failed.workflow_id, last + 1)
    with pytest.raises(Exception, match="Incorrect API key"):
        fork.get_result()
    assert control.cost_of(fork.workflow_id).saved == spent.tokens.total


def test_an_unknown_price_is_no_price(serve: Serve, url: str) -> None:
    serve()
    run = crew("First.", llm="openai/gpt-of-nobody").start()
    run.get_result()
    with Control(url) as control:
        found = control.cost_of(run.workflow_id)
        assert (found.usd, found.unpriced) == (None, ("gpt-of-nobody",))
        assert found.tokens.requests == 1
        with pytest.raises(RunNotFoundError):
            control.cost_of("nobody")


class Flaky(BaseLLM):
    """Is billed for an answer that is lost on the way."""

    def call(self, messages: Any, *args: Any, **kwargs: Any) -> str:
        self._track_token_usage_internal({"prompt_tokens": 5, "completion_tokens": 2})
        CALLS.append(1)
        if len(CALLS) == 1:
            raise ConnectionError("lost")
        return "Thought: I now know the final answer\nFinal Answer: done"


CALLS: list[int] = []


def test_each_attempt_that_was_billed_counts(control: Control) -> None:
    CALLS.clear()
    once_more = StepConfig(retries_allowed=True, max_attempts=2, interval_seconds=0.01)
    run = crew("Go.", llm=Flaky(model="flaky"), llm_step_config=once_more).start()
    run.get_result()
    assert control.cost_of(run.workflow_id).tokens == Tokens(14, 10, 4, requests=2)


def test_an_attempt_that_was_billed_counts_though_it_failed(control: Control) -> None:
    CALLS.clear()
    run = crew("Go.", llm=Flaky(model="flaky"), llm_step_config=StepConfig()).start()
    run.get_result()  # crewAI tries the task again
    assert control.cost_of(run.workflow_id).tokens == Tokens(14, 10, 4, requests=2)


def asking(llm: Any) -> Any:
    @tool("think")
    def think(about: str) -> str:
        """Think about something."""
        return str(llm.call(f"What about {about}?"))

    return think


@pytest.mark.parametrize(
    ("durable", "retries"),
    some_here(product([False, True], [False, True]), [(False, True), (True, False)]),
)
def test_what_a_tool_asks_an_llm_counts_once(
    serve: Serve, control: Control, durable: bool, retries: bool
) -> None:
    """Recorded on its own, or with the tool."""

    def script(request: Request) -> Any:
        if request.tools and not request.tool_results:
            return tool_calls(ToolCall("think", {"about": "otters"}))
        return ANSWER

    server = serve(script)
    inner: Any = DBOSLLM("gpt-4o-mini") if durable else LLM(model="gpt-4o-mini")
    config = StepConfig(retries_allowed=retries)
    run = crew("Go.", tools=[asking(inner)], tool_step_config=config).start()
    run.get_result()
    found = control.cost_of(run.workflow_id)
    prompt = sum(usage(request, ANSWER)["prompt_tokens"] for request in server.requests)
    assert (found.tokens.requests, found.tokens.prompt) == (3, prompt)
    assert list(found.models) == ["gpt-4o-mini"]
    last = max(step["function_id"] for step in DBOS.list_workflow_steps(run.workflow_id))
    fork = DBOS.fork_workflow(run.workflow_id, last + 1)
    fork.get_result()
    assert control.cost_of(fork.workflow_id).saved == found.tokens.total


def test_prices_are_those_of_the_user_then_of_a_file_then_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = Tokens(total=2_000_000, prompt=1_000_000, completion=1_000_000, cached=500_000)
    mini = Prices().of("gpt-4o-mini")
    assert mini is not None
    assert mini == Prices().of("openai/gpt-4o-mini")
    assert mini.prompt < mini.completion
    assert Prices().of("gpt-of-nobody") is None
    assert "litellm" not in sys.modules
    file = tmp_path / "prices.json"
    own = {"own-model": {"prompt": 2, "completion": 3}, "gpt-4o-mini": as_json(mini)}
    file.write_text(json.dumps(own))
    monkeypatch.setenv("CREWAI_DBOS_PRICES", str(file))
    assert Prices().usd([Spent("own-model", tokens)]) == 5.0
    given = Prices({"own-model": Price(2, 3, cached=1), "free": Price(0, 0)})
    assert given.usd([Spent("own-model", tokens)]) == 4.5
    assert given.usd([Spent("own-model", tokens), Spent("free", tokens)]) == 4.5
    assert given.usd([Spent("own-model", tokens), Spent(None, tokens)]) is None
    assert given.usd([]) == 0


def test_entries_of_earlier_releases_have_tokens_and_no_cost() -> None:
    entry = {"v": 2, "kind": "llm", "extra": {"usage": [{"prompt_tokens": 3}]}, "result": "x"}
    step = {"kind": "llm", "extra": {"usage": [{"prompt_tokens": 3}]}}  # of the user's
    found = cost.spent_by_entry([("a/llm#1", entry), ("b", step), ("c", 7), ("d", None)])
    assert found == {"a/llm#1": [Spent(None, Tokens(3, 3, requests=1))]}
    of_run = cost.cost_of(found["a/llm#1"], Prices(PRICES))
    assert (of_run.usd, of_run.unpriced, of_run.tokens.total) == (None, (), 3)
    assert cost.cost_of([], Prices(PRICES)).usd == 0
    odd: list[Any] = [{"usage": 3}, {"usage": ["x"]}, {"usage": None}, "x", None]
    for extra in odd:
        assert cost.spent_by_entry([("a", {**entry, "extra": extra})]) == {}


@pytest.mark.parametrize("content", ["[]", "{", '{"m": {"prompt": "much", "completion": 1}}'])
def test_a_file_of_prices_that_is_none_is_refused(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "prices.json"
    file.write_text(content)
    monkeypatch.setenv("CREWAI_DBOS_PRICES", str(file))
    with pytest.raises(DefinitionError, match=r"CREWAI_DBOS_PRICES|US dollars"):
        Prices()


def test_a_price_is_a_number() -> None:
    for wrong in (-1, float("nan"), "1", True, None):
        with pytest.raises(DefinitionError, match="prompt is a number of US dollars"):
            Price(wrong, 1)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="Price objects by model"):
        Prices({"m": 3})  # type: ignore[dict-item]


class Line(BaseModel):
    text: str


def test_turning_an_answer_into_an_object_counts(serve: Serve, control: Control) -> None:
    """crewAI asks for it past the LLM, through instructor."""

    line = tool_calls(ToolCall("Line", {"text": "One."}))
    server = serve(lambda _: line)
    llm, run_id = DBOSLLM("gpt-4o-mini"), unique("conversion")

    @DBOS.workflow(name=run_id)
    def convert() -> str:
        converter = recording(Converter)(
            llm=llm, text="One.", model=Line, instructions="As an object.", max_attempts=1
        )
        return str(converter.to_json())

    with SetWorkflowID(run_id):
        assert json.loads(convert()) == {"text": "One."}
    [request] = server.requests
    counts = usage(request, line)
    tokens = control.cost_of(run_id).tokens
    assert (tokens.prompt, tokens.completion) == (
        counts["prompt_tokens"],
        counts["completion_tokens"],
    )
    fork = DBOS.fork_workflow(run_id, 2)
    fork.get_result()
    assert len(server.requests) == 1
