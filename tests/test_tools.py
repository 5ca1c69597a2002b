"""What a tool's decoration means in a run: first time, and when the run is replayed."""

from __future__ import annotations

import contextvars
import logging
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from crewai import LLM, Agent, Task
from crewai.events import Depends, ToolUsageFinishedEvent, crewai_event_bus
from crewai.hooks import register_before_tool_call_hook, unregister_before_tool_call_hook
from crewai.mcp import MCPServerStdio
from crewai.tools import BaseTool, tool
from dbos import DBOS, SetWorkflowID, SQLAlchemyDatasource
from pydantic import BaseModel

from crewai_dbos import (
    ConcurrentRunError,
    DBOSAgent,
    DefinitionError,
    StepConfig,
    idempotency_key,
)
from crewai_dbos.testing import ModelServer, Reply, Request, ToolCall, text, tool_calls
from support.entries import some
from support.launching import QUICK
from support.names import unique

effects: list[tuple[str, Any]] = []
datasource: SQLAlchemyDatasource


@pytest.fixture(scope="module", autouse=True)
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    global datasource
    folder: Path = tmp_path_factory.mktemp("tools")
    DBOS(config={"system_database_url": f"sqlite:///{folder}/dbos.sqlite", **QUICK})
    datasource = SQLAlchemyDatasource.create(f"sqlite:///{folder}/app.sqlite")
    with datasource.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE transfers (amount INTEGER, key TEXT)"))
    DBOS.launch()
    yield
    DBOS.destroy()


@pytest.fixture(autouse=True)
def no_effects_yet() -> None:
    effects.clear()


@DBOS.step()
def audited(entry: str) -> str:
    effects.append(("audited", entry))
    return f"audited {entry}"


@tool
@DBOS.workflow()
def order_parts(part: str) -> str:
    """Order a part."""
    effects.append(("order_parts", part))
    return audited(part)


@tool
def transfer(amount: int) -> str:
    """Transfer money."""
    key = idempotency_key()

    @datasource.transaction
    def write() -> str:
        effects.append(("transfer", amount))
        datasource.sql_session().execute(
            sa.text("INSERT INTO transfers VALUES (:amount, :key)"), {"amount": amount, "key": key}
        )
        return f"transferred {amount}"

    return write()


@tool
def plain(key: str) -> str:
    """A tool without a decorator."""
    effects.append(("plain", key))
    return f"plain {key}"


@tool
def steps_inside(key: str) -> str:
    """A plain tool that makes DBOS steps of its own."""
    return audited(f"{key}-1") + " and " + audited(f"{key}-2")


@tool
@DBOS.step()
def keyed(key: str) -> str:
    """Report the idempotency key."""
    effects.append(("keyed", idempotency_key()))
    return "done"


class Opaque:
    def __str__(self) -> str:
        return "an opaque value"


@tool
@DBOS.step()
def opaque(key: str) -> Any:
    """Return something that JSON does not know."""
    return Opaque()


def script(*turns: list[ToolCall]) -> Callable[[Request], Reply]:
    def reply(request: Request) -> Reply:
        if request.assistant_turns < len(turns):
            return tool_calls(*turns[request.assistant_turns])
        return text(" | ".join(content for _, content in request.tool_results))

    return reply


@dataclass
class Ran:
    """A run that has ended."""

    id: str
    answer: str
    agent: DBOSAgent

    def replayed(self) -> str:
        """The answer of a replay of the whole run."""
        fork = DBOS.fork_workflow(self.id, 10_000).get_workflow_id()
        return str(self.agent.retrieve(fork).get_result())

    def replay_from_its_steps(self) -> None:
        """Check that a fork from any step gives the same answer."""
        steps = some(DBOS.list_workflow_steps(self.id), lambda step: step["function_name"])
        starts = [1, *(step["function_id"] + 1 for step in steps)]
        forks = [DBOS.fork_workflow(self.id, start).get_workflow_id() for start in starts]
        assert all(self.agent.retrieve(fork).get_result() == self.answer for fork in forks)


_servers: list[ModelServer] = []


@pytest.fixture(autouse=True)
def stopped_servers() -> Iterator[None]:
    yield
    while _servers:
        _servers.pop().stop()


def run(tools: list[BaseTool], turns: list[list[ToolCall]], **options: Any) -> Ran:
    """Run a DBOSAgent with `tools` whose model makes the calls of `turns`, then answers."""
    server = ModelServer(script(*turns)).start()
    _servers.append(server)
    llm = LLM(model="openai/gpt-4o-mini", api_key="sk-test", base_url=server.base_url)
    agent = Agent(role="Clerk", goal="Work", backstory="Diligent.", llm=llm, tools=tools)
    run_id = unique("run")
    durable = DBOSAgent(agent_name=run_id, orig_agent=agent, **options)
    with SetWorkflowID(run_id):
        answer = durable.execute_task(Task(description="Do it.", expected_output="A text."))
    return Ran(run_id, answer, durable)


A, B = {"key": "a"}, {"key": "b"}


@pytest.mark.some_entries
def test_a_workflow_is_invoked_as_a_child_workflow_and_not_again() -> None:
    calls = [[ToolCall("order_parts", {"part": "bolt"}), ToolCall("order_parts", {"part": "nut"})]]
    ran = run([order_parts], calls)
    assert ran.answer == "audited bolt | audited nut"
    children = DBOS.list_workflows(parent_workflow_id=ran.id)
    assert len(children) == 2
    assert all(child.workflow_id.startswith(f"{ran.id}/agent:") for child in children)
    done = list(effects)
    assert ran.replayed() == ran.answer
    assert effects == done
    ran.replay_from_its_steps()


def test_a_transaction_runs_exactly_once() -> None:
    calls = [[ToolCall("transfer", {"amount": 5}), ToolCall("transfer", {"amount": 7})]]
    ran = run([transfer], calls)
    assert ran.replayed() == ran.answer == "transferred 5 | transferred 7"
    with datasource.engine.begin() as connection:
        rows = connection.execute(sa.text("SELECT amount FROM transfers ORDER BY 1")).scalars()
        assert list(rows) == [5, 7]


@pytest.mark.some_entries
def test_dbos_steps_inside_a_plain_tool_are_steps_also_in_parallel_calls() -> None:
    calls = [[ToolCall("steps_inside", {"key": key}) for key in "abcd"]]
    ran = run([steps_inside], calls)
    assert ran.answer == " | ".join(f"audited {k}-1 and audited {k}-2" for k in "abcd")
    done = sorted(effects)
    assert len(done) == 8
    assert ran.replayed() == ran.answer
    assert sorted(effects) == done
    ran.replay_from_its_steps()


def test_a_handler_that_is_a_step_runs_once_for_each_event() -> None:
    with crewai_event_bus.scoped_handlers():

        @crewai_event_bus.on(ToolUsageFinishedEvent)
        @DBOS.step()
        def on_tool(source: Any, event: Any) -> None:
            effects.append(("event", event.tool_args["key"]))

        @crewai_event_bus.on(ToolUsageFinishedEvent)
        @DBOS.step()
        async def on_tool_async(source: Any, event: Any) -> None:
            effects.append(("async event", event.tool_args["key"]))

        calls = [
            [ToolCall("keyed", A), ToolCall("keyed", B)],
            [ToolCall("keyed", {"key": "c"})],
            [ToolCall("keyed", A)],
        ]
        ran = run([keyed], calls)
        events = sorted(effect for effect in effects if "event" in effect[0])
        assert events == sorted(
            (kind, key) for kind in ("event", "async event") for key in ("a", "b", "c", "a")
        )
        effects.clear()
        assert ran.replayed() == ran.answer
        assert effects == []


def test_two_handlers_made_by_one_function_keep_apart() -> None:
    def notify(channel: str) -> Callable[[Any, Any], None]:
        @DBOS.step()
        def handler(source: Any, event: Any) -> None:
            effects.append(("notified", channel))

        return handler

    with crewai_event_bus.scoped_handlers():
        for channel in ("a", "b"):
            crewai_event_bus.on(ToolUsageFinishedEvent)(notify(channel))
        ran = run([keyed], [[ToolCall("keyed", A)]])
        assert sorted(e for e in effects if e[0] == "notified") == [
            ("notified", "a"),
            ("notified", "b"),
        ]
        names = [s["function_name"] for s in DBOS.list_workflow_steps(ran.id)]
        assert len({n for n in names if "handler" in n and n.endswith("dbos#1")}) == 2
        assert not any("handler#2" in name for name in names)


def test_a_handler_made_around_an_object_has_the_same_name_in_every_process() -> None:
    """crewAI's objects have an id of their own in each."""

    def watch(agent: Agent) -> Callable[[Any, Any], None]:
        def handler(source: Any, event: Any) -> None:
            record(agent.role)

        return handler

    @DBOS.step()
    def record(role: str) -> None:
        effects.append(("recorded", role))

    def name_of_the_handler() -> str:
        with crewai_event_bus.scoped_handlers():
            agent = Agent(role="Clerk", goal="Work", backstory="Diligent.", llm="gpt-4o")
            crewai_event_bus.on(ToolUsageFinishedEvent)(watch(agent))
            ran = run([keyed], [[ToolCall("keyed", A)]])
        steps = DBOS.list_workflow_steps(ran.id)
        [name] = [s["function_name"] for s in steps if "/handler:" in s["function_name"]]
        return name.partition("/handler:")[2]

    assert name_of_the_handler() == name_of_the_handler()


def test_handlers_that_wait_for_each_other_have_all_run_when_the_run_ends() -> None:
    with crewai_event_bus.scoped_handlers():

        @crewai_event_bus.on(ToolUsageFinishedEvent)
        def first(source: Any, event: Any) -> None:
            effects.append(("first", None))

        @crewai_event_bus.on(ToolUsageFinishedEvent, depends_on=[Depends(first)])
        def second(source: Any, event: Any) -> None:
            effects.append(("second", None))

        run([keyed], [[ToolCall("keyed", A)]])
        assert [e for e in effects if e[1] is None] == [("first", None), ("second", None)]


class Booking(BaseModel):
    day: date


class Book(BaseTool):
    name: str = "book"
    description: str = "Book a day."
    args_schema: type[BaseModel] = Booking

    @DBOS.step()
    def _run(self, day: date) -> str:
        return f"booked {day}"


def test_parallel_calls_that_differ_in_a_date_keep_their_results() -> None:
    days = [f"2024-01-0{n}" for n in range(1, 6)]
    ran = run([Book()], [[ToolCall("book", {"day": day}) for day in days]])
    steps = [step["function_name"] for step in DBOS.list_workflow_steps(ran.id)]
    assert len({name.rpartition("#")[0] for name in steps if "tool:book" in name}) == 5
    assert ran.replayed() == ran.answer == " | ".join(f"booked {day}" for day in days)


def test_dbos_steps_on_threads_of_a_tool_are_refused() -> None:
    @tool
    def crawl(key: str) -> str:
        """Fetch on threads."""
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(contextvars.copy_context().run, audited, k) for k in "ab"]
            return " ".join(future.result() for future in futures)

    with pytest.raises(ConcurrentRunError, match="on another thread"):
        run([crawl], [[ToolCall("crawl", A)]])
    assert effects == []


@pytest.mark.some_entries
def test_a_step_in_a_tool_hook_belongs_to_that_call() -> None:
    def audit(context: Any) -> None:
        effects.append(("hook", audited(context.tool_input["key"])))

    register_before_tool_call_hook(audit)
    try:
        ran = run([keyed], [[ToolCall("keyed", {"key": key}) for key in "abcd"]])
        done = [e for e in effects if e[0] == "audited"]
        assert sorted(done) == [("audited", key) for key in "abcd"]
        effects.clear()
        assert ran.replayed() == ran.answer
        assert sorted(effects) == [("hook", f"audited {key}") for key in "abcd"]
        ran.replay_from_its_steps()
    finally:
        unregister_before_tool_call_hook(audit)


def test_an_undecorated_tool_is_called_again_and_one_warning_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="crewai_dbos"):
        ran = run([plain], [[ToolCall("plain", A)], [ToolCall("plain", B)]])
    warnings = [r.getMessage() for r in caplog.records if "'plain'" in r.getMessage()]
    assert len(warnings) == 1
    assert "@DBOS.step()" in warnings[0]
    assert "tool_step_config" in warnings[0]
    assert ran.replayed() == ran.answer
    assert effects == [("plain", "a"), ("plain", "b")] * 2


@pytest.mark.parametrize("config", [StepConfig(), {"plain": StepConfig()}], ids=["all", "named"])
def test_tool_step_config_records_undecorated_tools(config: Any) -> None:
    ran = run([plain], [[ToolCall("plain", A)], [ToolCall("plain", B)]], tool_step_config=config)
    assert ran.replayed() == ran.answer
    assert effects == [("plain", "a"), ("plain", "b")]


def test_tool_step_config_of_none_leaves_a_tool_out() -> None:
    ran = run([plain, keyed], [[ToolCall("plain", A)]], tool_step_config={"plain": None})
    assert ran.replayed() == ran.answer
    assert effects == [("plain", "a")] * 2


def test_a_tool_config_that_means_nothing_is_refused() -> None:
    agent = Agent(role="r", goal="g", backstory="b", llm="openai/gpt-4o-mini", tools=[plain])
    with pytest.raises(DefinitionError, match="names 'plane', but the tools are 'plain'"):
        DBOSAgent(agent_name="n1", orig_agent=agent, tool_step_config={"plane": StepConfig()})
    with pytest.raises(DefinitionError, match="need an async tool"):
        DBOSAgent(agent_name="n2", orig_agent=agent, tool_step_config=StepConfig(timeout_seconds=1))


def test_every_call_has_its_own_idempotency_key() -> None:
    calls = [[ToolCall("keyed", A), ToolCall("keyed", A)], [ToolCall("keyed", A)]]
    run([keyed], calls)
    keys = [value for kind, value in effects if kind == "keyed"]
    assert len(keys) == len(set(keys)) == 3
    with pytest.raises(RuntimeError, match="inside a tool call"):
        idempotency_key()


def test_a_result_without_a_json_form_is_recorded_as_the_text_the_model_sees() -> None:
    ran = run([opaque], [[ToolCall("opaque", A)]])
    assert ran.answer == "an opaque value"
    assert ran.replayed() == ran.answer


def test_a_failing_tool_is_retried_inside_one_entry() -> None:
    attempts = []

    @tool
    @DBOS.step(retries_allowed=True, max_attempts=3, interval_seconds=0.01)
    def flaky(key: str) -> str:
        """Fails twice."""
        attempts.append(idempotency_key())
        if len(attempts) < 3:
            raise ConnectionError("not yet")
        return "at last"

    ran = run([flaky], [[ToolCall("flaky", A)]])
    assert ran.answer == "at last"
    assert len(attempts) == 3
    assert len(set(attempts)) == 1
    kinds = [s["function_name"] for s in DBOS.list_workflow_steps(ran.id)]
    assert sum("flaky" in name for name in kinds) == 1


MCP_SERVER = """
import json, sys

def tell(what):
    with open(sys.argv[1], "a") as log:
        log.write(f"{what}\\n")

def answer(method, params):
    if method == "initialize":
        told = {"name": "shop", "version": "1"}
        version = params["protocolVersion"]
        return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": told}
    if method == "tools/list":
        schema = {"type": "object", "properties": {"item": {"type": "string"}}}
        return {"tools": [{"name": "price", "description": "A price.", "inputSchema": schema}]}
    item = params["arguments"]["item"]
    tell(f"price {item}")
    return {"content": [{"type": "text", "text": f"{item} costs 3"}]}

tell("started")
for line in sys.stdin:
    sent = json.loads(line)
    if "id" in sent:
        result = answer(sent["method"], sent.get("params") or {})
        print(json.dumps({"jsonrpc": "2.0", "id": sent["id"], "result": result}), flush=True)
"""
"""Without the SDK, which takes a second to import."""


def test_mcp_tools_are_discovered_and_called_once(tmp_path: Path) -> None:
    program, log = tmp_path / "shop.py", tmp_path / "log"
    program.write_text(MCP_SERVER)
    mcp = MCPServerStdio(command=sys.executable, args=["-I", "-S", str(program), str(log)])

    def reply(request: Request) -> Reply:
        if request.tool_results:
            return text(request.tool_results[0][1])
        (name,) = request.offered_tools
        return tool_calls(ToolCall(name, {"item": "tea"}))

    with ModelServer(reply) as server:
        llm = LLM(model="openai/gpt-4o-mini", api_key="sk-test", base_url=server.base_url)
        agent = Agent(role="Clerk", goal="Work", backstory="Diligent.", llm=llm, mcps=[mcp])
        durable = DBOSAgent(agent_name="mcp", orig_agent=agent, tool_step_config=StepConfig())
        with SetWorkflowID("mcp"):
            answer = durable.kickoff("What is the price of tea?")
        assert answer.raw == "tea costs 3"
        # One process for discovery, one for the call.
        assert log.read_text().splitlines() == ["started", "started", "price tea"]
        fork = DBOS.fork_workflow("mcp", 10_000).get_workflow_id()
        assert durable.retrieve(fork).get_result().raw == answer.raw
        assert log.read_text().splitlines() == ["started", "started", "price tea"]
