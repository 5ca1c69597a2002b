"""What the table says of each part of an agent or a crew."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from crewai import LLM, Agent, Crew, Task
from crewai.agent.planning_config import PlanningConfig
from crewai.agents.agent_builder.base_agent import BaseAgent
from crewai.events import BaseEventListener, ToolUsageFinishedEvent, crewai_event_bus
from crewai.hooks import before_tool_call
from crewai.knowledge.source.string_knowledge_source import StringKnowledgeSource
from crewai.mcp import MCPServerStdio
from crewai.memory.unified_memory import Memory
from crewai.tasks.llm_guardrail import LLMGuardrail
from crewai.tools import BaseTool, tool
from dbos import DBOS, SQLAlchemyDatasource
from pydantic import BaseModel

import crewai_dbos
from crewai_dbos import DBOSAgent, DBOSCrew, People, StepConfig
from crewai_dbos.doctor import inspect
from crewai_dbos.doctor._items import AGAIN, ANSWERED, made_twice
from support.names import unique

Row = tuple[str, str, str | None, str]


class Summary(BaseModel):
    text: str


def model(name: str) -> LLM:
    return LLM(model=f"openai/{name}", api_key="sk-0123456789")


def durable(config: Any = None, **options: Any) -> DBOSAgent:
    given = {"role": "Clerk", "goal": "Work", "backstory": "Kind.", "llm": model("gpt-4o-mini")}
    return DBOSAgent(
        agent_name=unique("table"),
        orig_agent=Agent(**{**given, **options}),
        tool_step_config=config,
    )


def _headers() -> dict[str, str]:
    return {"Idempotency-Key": crewai_dbos.idempotency_key()}


def rows(what: Any, *kinds: str) -> list[Row]:
    return [
        (item.kind, item.name, item.seam, item.recovery)
        for item in inspect(what).items
        if item.kind in kinds or not kinds
    ]


def test_llms() -> None:
    memory = Memory(
        llm=model("gpt-4.1-nano"), embedder=lambda texts: [[1.0]], storage=tempfile.mkdtemp()
    )
    agent = durable(
        function_calling_llm=model("gpt-4o"),
        planning_config=PlanningConfig(llm=model("gpt-4.1")),
        memory=memory,
    )
    assert rows(agent, "llm", "memory", "embedder") == [
        ("llm", "gpt-4o-mini", "llm", ANSWERED),
        ("llm", "gpt-4o", "function_calling_llm", ANSWERED),
        ("llm", "gpt-4.1", "planning_llm", ANSWERED),
        (
            "memory",
            "Memory",
            "memory.recall, memory.save",
            f"{ANSWERED}; a save cut short is done again",
        ),
        ("llm", "gpt-4.1-nano", "memory.llm", ANSWERED),
        ("embedder", "memory", "embedding(...)", ANSWERED),
    ]


def test_tools(tmp_path: Path) -> None:
    DBOS(config={"name": "tools", "log_level": "CRITICAL"})
    shop = SQLAlchemyDatasource.create(f"sqlite:///{tmp_path}/shop.sqlite")

    @tool
    @DBOS.step()
    async def send(to: str) -> str:
        """Send."""
        return to

    @tool
    @DBOS.workflow()
    def order(what: str) -> str:
        """Order."""
        return what

    @tool
    @shop.transaction()
    def book(what: str) -> str:
        """Book."""
        return what

    @tool("Look it up")
    def look(what: str) -> str:
        """Look."""
        return what

    everything = [send, order, book, look]
    decorated = [
        ("tool", "send", "tool:send(...)", ANSWERED),
        ("tool", "order", "a child workflow", "its result; it recovers by itself"),
        ("tool", "book", "DBOS's own record", "committed once"),
    ]
    plain = ("tool", "Look it up", None, AGAIN)
    recorded = ("tool", "Look it up", "tool:look_it_up(...)", ANSWERED)
    assert rows(durable(tools=everything), "tool") == [*decorated, plain]
    assert rows(durable(StepConfig(), tools=everything), "tool") == [*decorated, recorded]
    named = durable({"Look it up": StepConfig(), "send": None}, tools=everything)
    assert rows(named, "tool") == [*decorated, recorded]


def test_servers_of_tools() -> None:
    stdio = MCPServerStdio(command="python", args=["--key", "secret"])
    mcps = ["https://mcp.test/all?key=secret", stdio]
    asked = "asked for its tools again"
    kept = "the same tools, not asked again"
    assert rows(durable(mcps=mcps), "mcp", "tool") == [
        ("mcp", "https://mcp.test/all", None, asked),
        ("tool", "tools of https://mcp.test/all", None, AGAIN),
        ("mcp", "python", "mcp.tools", kept),
        ("tool", "tools of python", None, AGAIN),
    ]
    assert rows(durable(StepConfig(), mcps=mcps[1:]), "tool") == [
        ("tool", "tools of python", "tool:name(...)", ANSWERED)
    ]
    some = durable({"find": StepConfig(), "go": None}, mcps=mcps[1:])
    assert rows(some, "tool") == [
        ("tool", "tools of python", "tool:name(...) of find", f"{ANSWERED}; others {AGAIN}")
    ]


def test_functions_of_the_user() -> None:
    @DBOS.step()
    def recorded(step: Any) -> None: ...

    def plain(output: Any) -> Any:
        return True, output

    kept = "not called again"
    agent = durable(step_callback=recorded, guardrail=plain, inject_date=True)
    assert rows(agent, "callback", "guardrail", "clock") == [
        ("guardrail", "test_functions_of_the_user.<locals>.plain", "guardrail", kept),
        (
            "callback",
            "test_functions_of_the_user.<locals>.recorded (step_callback)",
            "step_callback",
            kept,
        ),
        ("clock", "inject_date", "date", "the day on which the run began"),
    ]
    assert rows(durable(guardrail="Is it kind?"), "guardrail") == [
        ("guardrail", "a text", "llm", ANSWERED)
    ]
    asking = durable(guardrail=LLMGuardrail("Is it kind?", model("gpt-4o")))
    assert rows(asking, "guardrail") == [("guardrail", "LLMGuardrail", "guardrail.llm", ANSWERED)]


def test_hooks_and_handlers_of_the_process() -> None:
    class Listener(BaseEventListener):
        def setup_listeners(self, crewai_event_bus: Any) -> None:
            @crewai_event_bus.on(ToolUsageFinishedEvent)
            def heard(source: Any, event: Any) -> None:
                self.last = event

    Listener()

    @crewai_event_bus.on(ToolUsageFinishedEvent)
    @DBOS.step()
    def told(source: Any, event: Any) -> None: ...

    @before_tool_call(tools=["send"])
    def allow(context: Any) -> None: ...

    report = inspect(durable())
    assert [(i.kind, i.name.rpartition(".")[2], i.seam) for i in report.items[1:]] == [
        ("hook", "allow (pre_tool_call)", None),
        ("handler", "heard (ToolUsageFinishedEvent)", None),
        ("handler", "told (ToolUsageFinishedEvent)", "DBOS's own record"),
    ]
    assert {item.owner for item in report.items[1:]} == {"process"}
    assert [finding.rule for finding in report.findings] == ["replayed", "replayed"]


def test_a_crew() -> None:
    agent = durable()
    task = Task(
        name="sum up",
        description="Do it.",
        expected_output="A text.",
        agent=agent,
        output_pydantic=Summary,
        guardrails=["Is it kind?", lambda output: (True, output)],
        human_input=True,
    )
    crew = Crew(
        name="office",
        agents=[agent],
        tasks=[task],
        manager_llm=model("gpt-4o"),
        step_callback=print,
    )
    items = [(item.kind, item.name, item.owner, item.recorded) for item in inspect(crew).items]
    name = "test_a_crew.<locals>.<lambda>"
    assert items == [
        ("llm", "gpt-4o-mini", f"agent {agent.agent_name!r}", True),
        ("model", "Summary (output_pydantic)", "task 'sum up'", True),
        ("guardrail", "a text", "task 'sum up'", True),
        ("guardrail", name, "task 'sum up'", False),
        ("person", "human_input", "task 'sum up'", True),
        ("llm", "gpt-4o (manager_llm)", "crew", False),
        ("callback", "print (step_callback)", "crew", False),
    ]


def test_knowledge() -> None:
    agent = durable()
    agent.knowledge_sources = [StringKnowledgeSource(content="The sky is blue.")]
    assert rows(agent, "knowledge") == [
        (
            "knowledge",
            "StringKnowledgeSource",
            "knowledge.query",
            f"queries {ANSWERED}; the source is loaded again",
        )
    ]


def test_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match="not OpenAICompletion"):
        inspect(model("gpt-4o"))


def test_an_agent_of_another_library_in_a_crew() -> None:
    class Adapter(BaseAgent):
        def execute_task(self, *args: Any, **kwargs: Any) -> Any: ...
        async def aexecute_task(self, *args: Any, **kwargs: Any) -> Any: ...
        def create_agent_executor(self, *args: Any, **kwargs: Any) -> Any: ...
        def get_delegation_tools(self, *args: Any, **kwargs: Any) -> Any: ...
        def get_mcp_tools(self, *args: Any, **kwargs: Any) -> Any: ...
        def get_platform_tools(self, *args: Any, **kwargs: Any) -> Any: ...

    adapter = Adapter(role="Visitor", goal="g", backstory="b")
    task = Task(description="Do it.", expected_output="A text.", agent=adapter)
    of_crew, finding = inspect(Crew(agents=[adapter], tasks=[task])).findings
    assert of_crew.what == "The crew is no DBOSCrew, so nothing of it is recorded."
    assert (finding.rule, finding.what) == (
        "not-durable",
        "Agent 'Visitor' is no DBOSAgent, so nothing of it is recorded.",
    )
    assert "can't wrap Adapter" in finding.fix


def test_what_people_are_asked() -> None:
    def is_large(request: Any) -> bool:
        return True

    @tool
    def search(query: str) -> str:
        """Search."""
        return query

    for number, (chosen, told) in enumerate(
        [(["search"], "approval of search"), (is_large, "approval where")]
    ):
        agent = Agent(role="Clerk", goal="g", backstory="b", llm="gpt-4o-mini", tools=[search])
        task = Task(description="d", expected_output="e", agent=agent, human_input=True)
        crew = DBOSCrew(
            crew_name=unique(f"asking{number}"),
            orig_crew=Crew(agents=[agent], tasks=[task]),
            people=People(approve_tools=chosen),
        )
        asked = [item for item in inspect(crew).items if item.kind == "person"]
        assert [item.recorded for item in asked] == [True, True]
        assert asked[0].name == "human_input"
        assert asked[1].name.startswith(told)
        (finding,) = [f for f in inspect(crew).findings if f.rule == "waits-for-people"]
        assert asked[1].name in finding.what


class WithKey(BaseTool):
    name: str = "with_key"
    description: str = "Pays."

    def _run(self, cents: int) -> str:
        return f"{cents} {crewai_dbos.idempotency_key()}"


def test_tools_whose_effect_a_crash_may_double() -> None:
    @tool
    def plain(cents: int) -> str:
        """Pay."""
        return str(cents)

    @tool
    @DBOS.step()
    def recorded(cents: int) -> str:
        """Pay."""
        return str(cents)

    @tool
    @DBOS.step()
    def keyed(cents: int) -> str:
        """Pay."""
        return f"{cents} {crewai_dbos.idempotency_key()}"

    @tool
    @DBOS.workflow(name=unique("workflow"))
    def workflow(cents: int) -> str:
        """Pay."""
        return str(cents)

    @tool
    @DBOS.step()
    def nested(cents: int) -> str:
        """Pay."""

        def send() -> str:
            return crewai_dbos.idempotency_key()

        return send()

    @tool
    def helped(cents: int) -> str:
        """Pay."""
        return _headers()["Idempotency-Key"]

    agent = durable(tools=[plain, recorded, keyed, workflow, WithKey(), nested, helped])
    assert made_twice(inspect(agent).items) == ["plain", "recorded"]


def test_a_server_of_which_no_tool_is_recorded() -> None:
    @tool
    def plain(cents: int) -> str:
        """Pay."""
        return str(cents)

    server = MCPServerStdio(command="python", args=["server.py"])
    agent = durable({"plain": None}, mcps=[server], tools=[plain])
    assert rows(agent, "tool")[-1] == ("tool", "tools of python", None, AGAIN)
