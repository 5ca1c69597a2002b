"""Agents on every provider: the same as crewAI alone, and nothing is asked twice on recovery."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID
from pydantic import BaseModel

from crewai_dbos import DBOSLLM, DBOSAgent, DBOSCrew, StepConfig
from crewai_dbos._stored.usage import Tokens, spent_in
from crewai_dbos.testing import text
from providers.conftest import Serve
from providers.models import PROVIDERS, covering
from providers.scripts import TOOLS, at_once, object_or_text, one_after_the_other, too_long
from providers.server import ProviderServer
from providers.wires import USED
from support.databases import some_here
from support.names import unique
from support.replays import kind_of, starts_of

found: list[str] = []
"""What the tool was asked."""


@tool
def search(query: str) -> str:
    """Search for something."""
    found.append(query)
    return f"found {query}"


@pytest.fixture(autouse=True)
def nothing_found() -> None:
    found.clear()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the package has logged."""
    caplog.set_level(logging.INFO, "crewai_dbos")
    return lambda: [r.getMessage() for r in caplog.records if r.name.startswith("crewai_dbos")]


def clerk(provider: str, **options: Any) -> Agent:
    llm = PROVIDERS[provider].build(**options)
    return Agent(role="Clerk", goal="Work", backstory="Diligent.", llm=llm, tools=[search])


def durable(agent: Agent) -> DBOSAgent:
    return DBOSAgent(agent_name=unique("clerk"), orig_agent=agent, tool_step_config=StepConfig())


def check_as_plain(
    provider: str, server: ProviderServer, ask: Callable[[Any], Any], **options: Any
) -> str:
    """A run asks and gets what crewAI alone does. Its id."""
    expected = ask(clerk(provider, **options))
    requests, queries = [asked.text for asked in server.requests], sorted(found)
    server.requests.clear()
    found.clear()
    run_id = unique("run")
    with SetWorkflowID(run_id):
        output = ask(durable(clerk(provider, **options)))
    assert [asked.text for asked in server.requests] == requests
    assert sorted(found) == queries
    assert output.raw == expected.raw
    assert output.usage_metrics == expected.usage_metrics
    return run_id


def without_addresses(result: Any) -> str:
    """A result of a run in which the ids that crewAI makes from addresses are equal."""
    return re.sub(r"call_[0-9]{8,}", "call", json.dumps(result, sort_keys=True))


def check_forks(run_id: str, server: ProviderServer) -> None:
    """From wherever a run goes on, it asks what is left of an undisturbed run, and no more."""
    requests = [asked.text for asked in server.requests]
    queries = sorted(found)
    steps = DBOS.list_workflow_steps(run_id)
    expected = DBOS.retrieve_workflow(run_id).get_result()
    for start in starts_of(steps):
        server.requests.clear()
        found.clear()
        fork = DBOS.fork_workflow(run_id, start)
        assert without_addresses(fork.get_result()) == without_addresses(expected), start
        kept = [kind_of(step) for step in steps if step["function_id"] < start]
        answered, searched = kept.count("llm"), kept.count("tool")
        assert [asked.text for asked in server.requests] == requests[answered:], start
        assert len(found) == len(queries) - searched, start


@pytest.mark.some_entries
# Of one call after the other it is those that have to be told their thoughts again.
@pytest.mark.parametrize(
    ("provider", "script"),
    some_here(
        itertools.product(PROVIDERS, TOOLS),
        [
            *((provider, "parallel") for provider in PROVIDERS),
            *((provider, "sequential") for provider in ("anthropic", "gemini", "litellm")),
        ],
    ),
)
def test_tools(provider: str, script: str, serve: Serve, said: Callable[[], list[str]]) -> None:
    server = serve(provider, TOOLS[script])
    run_id = check_as_plain(provider, server, lambda agent: agent.kickoff("Find out."))
    assert len(found) == 2
    check_forks(run_id, server)
    assert [message for message in said() if "recorded" in message] == []


@pytest.mark.some_entries
@pytest.mark.parametrize("provider", [name for name, p in PROVIDERS.items() if p.calls_in_streams])
def test_tools_of_a_stream(provider: str, serve: Serve) -> None:
    """Of the others crewAI reads no tool calls out of a stream."""
    server = serve(provider, at_once)
    kickoff = lambda agent: agent.kickoff("Find out.")  # noqa: E731
    # The calls of LiteLLM's have no ids, and crewAI's kickoff of an agent refuses such messages.
    ask = in_a_crew if provider == "litellm" else kickoff
    run_id = check_as_plain(provider, server, ask, stream=True)
    check_forks(run_id, server)


def in_a_crew(agent: Agent | DBOSAgent) -> Any:
    task = Task(description="Find out.", expected_output="It.", agent=agent)
    if isinstance(agent, DBOSAgent):
        return DBOSCrew(
            crew_name=unique("crew"), orig_crew=Crew(agents=[agent], tasks=[task])
        ).kickoff()
    return Crew(agents=[agent], tasks=[task]).kickoff()


@pytest.mark.some_entries
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_conversation_that_is_too_long_is_summarised(provider: str, serve: Serve) -> None:
    server = serve(provider, too_long)
    run_id = check_as_plain(provider, server, lambda agent: agent.kickoff("Find out."))
    assert len(server.requests) == 4
    check_forks(run_id, server)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_entries_and_usage_say_what_requests_took_and_entries_of_which_model(
    provider: str, stream: bool, serve: Serve
) -> None:
    calls = not stream or PROVIDERS[provider].calls_in_streams
    server = serve(provider, at_once if calls else lambda _: text("Found."))
    agent, run_id = clerk(provider, stream=stream), unique("run")
    with SetWorkflowID(run_id):
        usage = durable(agent).kickoff("Find out.").usage_metrics
    steps = DBOS.list_workflow_steps(run_id)
    spent = [each for step in steps for each in spent_in(step["output"])]
    assert {each.model for each in spent} == {agent.llm.model}
    tokens = sum((each.tokens for each in spent), Tokens())
    assert tokens.requests == len(server.requests)
    assert tokens.prompt == len(server.requests) * USED["prompt"]
    assert tokens.total == usage["total_tokens"]
    assert tokens.cached == usage["cached_prompt_tokens"]
    assert tokens.reasoning == usage["reasoning_tokens"]
    if stream:
        return
    counts = PROVIDERS[provider].counts
    assert usage["prompt_tokens"] == 2 * USED["prompt"]
    assert usage["completion_tokens"] == 2 * USED["completion"]
    assert usage["cached_prompt_tokens"] == ("cached" in counts) * 2 * USED["cached"]
    assert usage["reasoning_tokens"] == ("reasoning" in counts) * 2 * USED["reasoning"]


@pytest.mark.some_entries
def test_responses_go_on_from_the_last_one(serve: Serve) -> None:
    """What the provider keeps of a conversation is asked for by its id, also after recovery."""
    server = serve("responses", one_after_the_other)
    options = {"auto_chain": True, "auto_chain_reasoning": True}
    kickoff = lambda agent: agent.kickoff("Find out.")  # noqa: E731
    run_id = check_as_plain("responses", server, kickoff, **options)
    before = [asked.body.get("previous_response_id") for asked in server.requests]
    assert before[0] is None
    assert None not in before[1:]
    check_forks(run_id, server)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_durable_llm_has_every_option_of_the_original(provider: str, serve: Serve) -> None:
    """The copy that an LLM of LiteLLM makes of itself lacks some."""
    serve(provider, at_once)
    llm = PROVIDERS[provider].build(temperature=0.5)
    for name, value in {"timeout": 7.0, "context_window_size": 1000}.items():
        if name in type(llm).model_fields:
            setattr(llm, name, value)
    kept = DBOSLLM(llm)
    assert isinstance(kept, type(llm))
    for name in type(llm).model_fields:
        assert getattr(kept, name) == getattr(llm, name), name


# Without an agent ------------------------------------------------------------------------


class Person(BaseModel):
    name: str
    age: int


now: dict[str, Any] = {}


@DBOS.workflow(name="providers.ask")
def ask() -> list[Any]:
    """Two requests, the second one for an object."""
    first = now["llm"].call("Hello.")
    return [first, name_of(now["llm"].call("Who?", response_model=now["model"]))]


@DBOS.workflow(name="providers.ask_async")
async def ask_async() -> list[Any]:
    first = await now["llm"].acall("Hello.")
    person = await now["llm"].acall("Who?", response_model=now["model"])
    return [first, name_of(person)]


def name_of(person: Any) -> str:
    """Of an object, or of its JSON, which is what crewAI makes of LiteLLM's. A text as it is."""
    if isinstance(person, str) and person.startswith("{"):
        person = Person.model_validate_json(person)
    return getattr(person, "name", person)


@pytest.mark.parametrize(
    ("provider", "way"), covering(["sync", "stream"], ["async", "async stream"])
)
def test_texts_and_objects(provider: str, way: str, serve: Serve) -> None:
    asynchronous, stream = "async" in way, "stream" in way
    server = serve(provider, object_or_text)
    now["model"] = Person if PROVIDERS[provider].objects_in_streams or not stream else None
    now["llm"] = DBOSLLM(PROVIDERS[provider].build(stream=stream))
    run_id = unique("asking")
    with SetWorkflowID(run_id):
        answers = asyncio.run(ask_async()) if asynchronous else ask()
    assert answers == ["Hello yourself.", "Ada" if now["model"] else "Hello yourself."]
    requests = [asked.text for asked in server.requests]
    used = now["llm"].get_token_usage_summary()
    for answered in range(3):
        server.requests.clear()
        now["llm"] = DBOSLLM(PROVIDERS[provider].build(stream=stream))
        assert DBOS.fork_workflow(run_id, answered + 1).get_result() == answers
        assert [asked.text for asked in server.requests] == requests[answered:]
        assert now["llm"].get_token_usage_summary() == used
