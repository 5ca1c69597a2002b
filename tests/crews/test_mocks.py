"""Mocks in place of callbacks, tools, memories, knowledge and LLMs work as in crewAI."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
from crewai import LLM, Crew
from crewai.flow.flow import Flow, start
from crewai.knowledge.knowledge import Knowledge
from crewai.tools import BaseTool, tool
from crewai.types.usage_metrics import UsageMetrics
from dbos import DBOS, SetWorkflowID

import crewai_dbos
from crewai_dbos import DBOSAgent, DBOSCrew, DBOSFlow, StepConfig
from crewai_dbos.testing import Reply, Request, ToolCall, text, tool_calls
from crews.scenarios import agent, search, searching, task
from support.databases import some_here
from support.names import unique
from support.serving import Serve


class Proxy:
    """Has every attribute that it is asked for, as a proxy has that looks them up elsewhere."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *args: Any, **_: Any) -> Any:
        self.calls += 1
        return args[0] if args else None

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None

    @property
    def call_count(self) -> int:
        return self.calls


@tool
def look(query: str) -> str:
    """Look something up."""
    return "found"


def mock() -> Mock:
    return Mock(side_effect=lambda given: given)


def magic_mock() -> MagicMock:
    return MagicMock(side_effect=lambda given: given)


def looking(request: Request) -> Reply:
    if request.tool_results:
        return text("Done.")
    return tool_calls(ToolCall("look", {"query": "otters"}))


def crew_with(what: str, function: Any) -> Crew:
    on_agent = {"agent_step": "step_callback"}.get(what)
    clerk = agent("Clerk", tools=[look], **({on_agent: function} if on_agent else {}))
    do = task("Do it", clerk, **({"callback": function} if what == "callback" else {}))
    lists = {"before_kickoff_callbacks", "after_kickoff_callbacks"}
    given = {what: [function] if what in lists else function}
    return Crew(agents=[clerk], tasks=[do], **({} if what in ("callback", "agent_step") else given))


CALLBACKS = {
    "callback": mock,
    "task_callback": magic_mock,
    "step_callback": Proxy,
    "agent_step": mock,
    "before_kickoff_callbacks": Proxy,
    "after_kickoff_callbacks": magic_mock,
}
"""Each with what stands in for it in ``make test``."""


@pytest.mark.parametrize(
    ("what", "make"),
    some_here(product(CALLBACKS, (mock, magic_mock, Proxy)), list(CALLBACKS.items())),
)
def test_a_callback(what: str, make: Callable[[], Any], serve: Serve) -> None:
    serve(looking)
    alone = make()
    expected = crew_with(what, alone).kickoff({"topic": "otters"}).raw
    function = make()
    crew = DBOSCrew(crew_name=unique("mocked"), orig_crew=crew_with(what, function))
    with SetWorkflowID(crew.crew_name):
        assert crew.kickoff({"topic": "otters"}).raw == expected
    assert function.call_count == alone.call_count > 0
    steps = DBOS.list_workflow_steps(crew.crew_name)
    fork = DBOS.fork_workflow(crew.crew_name, steps[-1]["function_id"] + 1).get_workflow_id()
    assert crew.retrieve(fork).get_result().raw == expected
    assert function.call_count == alone.call_count


@pytest.mark.parametrize("make", [lambda: Mock(return_value="found"), Proxy])
def test_the_function_of_a_tool(make: Callable[[], Any], serve: Serve) -> None:
    def script(request: Request) -> Reply:
        return text("Done.") if request.tool_results else searching("otters")

    serve(script)
    function = make()
    mocked: BaseTool = search.model_copy(update={"func": function})
    clerk = agent("Clerk", tools=[mocked])
    crew = DBOSCrew(
        crew_name=unique("mocked"), orig_crew=Crew(agents=[clerk], tasks=[task("Do", clerk)])
    )
    with SetWorkflowID(crew.crew_name):
        assert crew.kickoff().raw == "Done."
    steps = DBOS.list_workflow_steps(crew.crew_name)
    assert [s for s in steps if "/tool:search(" in s["function_name"]]
    assert function.call_count == 1
    fork = DBOS.fork_workflow(crew.crew_name, steps[-1]["function_id"] + 1).get_workflow_id()
    assert crew.retrieve(fork).get_result().raw == "Done."
    assert function.call_count == 1


def test_a_step(launched: None) -> None:
    function, proxy = Mock(return_value=7), Proxy()

    @DBOS.workflow(name=unique("steps"))
    def work() -> list[Any]:
        return [crewai_dbos.step(function, 1), crewai_dbos.step(proxy, 2)]

    run_id = unique("steps")
    with SetWorkflowID(run_id):
        assert work() == [7, 2]
    assert DBOS.fork_workflow(run_id, 100).get_result() == [7, 2]
    assert (function.call_count, proxy.calls) == (1, 1)


def mocked_llm() -> Any:
    return MagicMock(
        spec=LLM,
        **{
            "call.return_value": "Thought: I know.\nFinal Answer: 42",
            "supports_function_calling.return_value": False,
            "get_context_window_size.return_value": 9999,
            "get_token_usage_summary.return_value": UsageMetrics(),
            "stop": [],
        },
    )


def test_an_llm(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve()
    clerk = agent("Clerk", llm=mocked_llm())
    crew = DBOSCrew(
        crew_name=unique("mocked"), orig_crew=Crew(agents=[clerk], tasks=[task("Do", clerk)])
    )
    assert crew.kickoff().raw == "42"
    single = DBOSAgent(agent_name=unique("mocked"), orig_agent=agent("Clerk", llm=mocked_llm()))
    assert single.kickoff("Do").raw == "42"
    assert "is none of crewAI's, so what it is asked is not recorded" in caplog.text
    assert not server.requests


@pytest.mark.parametrize("make", [Mock, MagicMock, Proxy])
def test_a_memory_of_a_flow(make: Callable[[], Any], serve: Serve) -> None:
    class Recalling(Flow[dict[str, Any]]):
        @start()
        def recall_it(self) -> str:
            return type(self.recall("otters")).__name__

    def build() -> Any:
        flow = Recalling()
        flow.memory = make()
        return flow

    serve()
    flow = DBOSFlow(flow_name=unique("mocked"), orig_flow=build)
    assert flow.kickoff() == build().kickoff()


class Shelf:
    """Has of crewAI's knowledge what a run asks."""

    def __init__(self) -> None:
        self.asked = 0

    def query(self, *_: Any, **__: Any) -> list[Any]:
        self.asked += 1
        return []


def knowledge_mock() -> MagicMock:
    return MagicMock(spec=Knowledge)


@pytest.mark.parametrize(
    ("of", "make"),
    some_here(
        product(("agent", "crew"), (Shelf, knowledge_mock)),
        [("agent", Shelf), ("crew", knowledge_mock)],
    ),
)
def test_knowledge(
    of: str, make: Callable[[], Any], serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def build(knowledge: Any) -> Crew:
        clerk = agent("Clerk")
        crew = Crew(agents=[clerk], tasks=[task("Do {topic}", clerk)])
        (clerk if of == "agent" else crew).knowledge = knowledge
        return crew

    def asked(knowledge: Any) -> int:
        return knowledge.asked if isinstance(knowledge, Shelf) else knowledge.query.call_count

    serve()
    alone, ours = make(), make()
    expected = build(alone).kickoff({"topic": "otters"}).raw
    crew = DBOSCrew(crew_name=unique("mocked"), orig_crew=build(ours))
    assert crew.kickoff({"topic": "otters"}).raw == expected
    assert asked(ours) == asked(alone) == 1
    assert "is none of crewAI's, so what it is asked is not recorded" in caplog.text


def test_a_tool_step_config_beside_a_mock(serve: Serve) -> None:
    """A mock is no DBOS step, whatever it is asked."""
    mocked: BaseTool = search.model_copy(update={"func": MagicMock(return_value="x")})
    DBOSAgent(
        agent_name=unique("mocked"),
        orig_agent=agent("Clerk", tools=[mocked]),
        tool_step_config={"search": StepConfig(retries_allowed=True)},
    )
