"""What we touch of crewAI's inside is there and does what we take it to do (read at 1.15.30)."""

from __future__ import annotations

import ast
import asyncio
import copy
import inspect
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
from crewai import LLM, Agent, Crew, Flow, Task, llms
from crewai.agents.agent_executor import AgentExecutor
from crewai.agents.parser import AgentFinish
from crewai.agents.step_executor import StepExecutor
from crewai.core.providers.human_input import SyncHumanInputProvider
from crewai.events import crewai_event_bus
from crewai.events.base_events import BaseEvent
from crewai.events.event_context import get_current_parent_id, push_event_scope
from crewai.events.types.system_events import SigTermEvent
from crewai.flow import runtime, start
from crewai.flow.persistence import SQLiteFlowPersistence
from crewai.flow.runtime import _actions as actions
from crewai.knowledge.knowledge import Knowledge
from crewai.llms import retry as llm_retry
from crewai.llms.base_llm import BaseLLM, call_stop_override, call_stream_override
from crewai.llms.providers.openai.completion import OpenAICompletion
from crewai.mcp import tool_resolver
from crewai.mcp.client import MCPClient
from crewai.memory.memory_scope import MemoryScope, MemorySlice
from crewai.memory.storage.factory import set_memory_storage_factory
from crewai.memory.unified_memory import Memory
from crewai.tasks.llm_guardrail import LLMGuardrail
from crewai.telemetry import Telemetry
from crewai.tools import BaseTool, tool
from crewai.tools.memory_tools import RecallMemoryTool, RememberTool, create_memory_tools
from crewai.types.usage_metrics import UsageMetrics
from crewai.utilities import tool_result_artifacts
from crewai.utilities.agent_utils import extract_tool_call_info
from crewai.utilities.converter import Converter
from crewai.utilities.llm_utils import create_llm
from crewai.utilities.planning_types import TodoItem
from crewai.utilities.prompts import VALID_DATE_FORMAT_CODES
from crewai.utilities.tool_result_artifacts import ToolResultArtifactStore
from openai.types.chat import ChatCompletionMessageFunctionToolCall
from pydantic import BaseModel

from crewai_dbos import DBOSAgent, StepConfig, _patches
from crewai_dbos._agents.executor import DBOSAgentExecutor
from crewai_dbos._agents.run_agent import _Literal
from crewai_dbos._crewai_seam import agent as agent_seam
from crewai_dbos._crewai_seam import flow as flow_seam
from crewai_dbos._crewai_seam import llm as llm_seam
from crewai_dbos._crewai_seam.agent import is_in_default_folder
from crewai_dbos._crewai_seam.events import event_handlers, scope_kept
from crewai_dbos._crewai_seam.telemetry import ends_the_process
from crewai_dbos._journal.joining import joined
from crewai_dbos._objects import events, mcp_discovery, run_objects
from crewai_dbos._objects.artifacts import StableArtifacts
from crewai_dbos._objects.conversion import recording
from crewai_dbos._objects.llm import durable_llm
from crewai_dbos.testing import ModelServer, error, text
from support.launching import launched
from support.runs import entries, finish, replay, run_id


@pytest.fixture(scope="module")
def dbos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with launched(f"sqlite:///{tmp_path_factory.mktemp('seam')}/dbos.sqlite"):
        yield


def model(server: ModelServer | None = None, **options: Any) -> Any:
    url = server.base_url if server else "https://api.openai.com/v1"
    given = {"model": "openai/gpt-4o-mini", "api_key": "sk-test", "base_url": url, **options}
    return LLM(**given)


def parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


# LLM -------------------------------------------------------------------------------------


def test_providers_keep_their_state_where_we_look_for_it() -> None:
    private = OpenAICompletion.__private_attributes__
    assert {"_client", "_async_client", "_last_response_id", "_last_reasoning_items"} <= set(
        private
    )
    assert "_token_usage" in BaseLLM.__private_attributes__
    for name in ("_build_sync_client", "_build_async_client", "_get_async_client"):
        assert callable(getattr(OpenAICompletion, name))
    assert "previous_response_id" in inspect.getsource(OpenAICompletion)


def test_providers_build_clients_in_the_methods_that_we_override() -> None:
    # Read, not imported: an import needs the SDK of each provider.
    folder = Path(llms.__path__[0]) / "providers"
    defined = {
        node.name
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    builders = {"_build_sync_client", "_build_async_client"}
    assert {*builders, "_ensure_async_client", "_initialize_client"} <= defined


# Azure asks through an LLM in `_responses_delegate`.
CLIENTS = {
    "_client", "_async_client", "_async_client_initialized", "_async_exit_stack",
    "_responses_delegate",
}  # fmt: skip


def test_no_provider_remembers_a_request_elsewhere_than_we_look() -> None:
    # Read, not imported: an import needs the SDK of each provider.
    folder = Path(llms.__path__[0]) / "providers"
    trees = [ast.parse(path.read_text()) for path in folder.rglob("*.py")]
    assert trees
    private = {
        node.target.id
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) == "PrivateAttr"
    }
    assert private - CLIENTS == set(llm_seam.PROVIDER_STATE)
    assert private >= {"_client", "_async_client"}


def test_a_copy_of_an_llm_shares_neither_counters_nor_conversation() -> None:
    llm = model()
    llm._track_token_usage_internal({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7})
    llm._last_response_id = "resp_1"
    copied = copy.copy(llm)
    llm_seam.forget_shared_state(copied)
    assert copied.get_token_usage_summary().total_tokens == 0
    assert copied._last_response_id is None
    copied._track_token_usage_internal({"prompt_tokens": 1, "total_tokens": 1})
    copied._last_response_id = "resp_2"
    assert llm.get_token_usage_summary().total_tokens == 7
    assert llm._last_response_id == "resp_1"


def test_what_the_llm_of_a_durable_agent_spends_is_counted_on_the_users() -> None:
    with ModelServer(lambda request: text("Hello.")) as server:
        llm = model(server)
        orig = Agent(role="Clerk", goal="Work", backstory="Diligent.", llm=llm)
        agent: Any = DBOSAgent(agent_name="spending", orig_agent=orig)
        assert agent.llm is not llm
        agent.llm.call("Hi.")
        assert llm.get_token_usage_summary().successful_requests == 1


def test_what_a_review_asks_of_crewai() -> None:
    finish_with = AgentFinish(thought="", output="an answer", text="an answer")
    assert SyncHumanInputProvider._get_output_string(finish_with) == "an answer"
    for name in ("_is_training_mode", "_format_feedback_message", "_invoke_loop", "_ainvoke_loop"):
        assert callable(getattr(AgentExecutor, name))


def test_a_copy_is_asked_as_its_original_would_be() -> None:
    original, copied, another = model(), model(), model()
    stopping = call_stop_override(original, ["END"])
    streaming = call_stream_override(original, True)
    with stopping, streaming, llm_seam.asked_for(original, copied):
        assert copied.stop_sequences == ["END"]
        assert copied._effective_stream() is True
        assert another.stop_sequences == []
        assert not another._effective_stream()
    assert copied.stop_sequences == []


def test_usage_and_state_are_put_back_on_replay(dbos: None) -> None:
    with ModelServer(lambda request: text("Hello.")) as server:
        llm = model(server)

        def plan() -> list[Any]:
            with joined("work") as scope:
                durable: Any = durable_llm(llm, role="llm", config=None, scope=scope)
                answer = durable.call("Hi.")
                return [answer, durable.get_token_usage_summary().model_dump()]

        run = run_id()
        answer, usage = finish(plan, run)
        assert answer == "Hello."
        assert usage["successful_requests"] == 1
        assert usage["total_tokens"] > 0
        assert replay(run) == [answer, usage]
        assert len(server.requests) == 1
        assert llm.get_token_usage_summary().total_tokens == 0


def ask(llm: Any, asynchronous: bool) -> Any:
    return asyncio.run(llm.acall("Hi.")) if asynchronous else llm.call("Hi.")


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("built", ["early", "late"])
def test_the_sdk_retries_outside_a_recorded_call_and_not_inside(
    dbos: None, asynchronous: bool, built: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ModelServer(lambda request: error(500, retry_after=0.01)) as server:
        if built == "late":
            monkeypatch.delenv("OPENAI_API_KEY", raising=False)
            llm = model(server, api_key=None, max_retries=2)
            monkeypatch.setenv("OPENAI_API_KEY", "sk-late")
        else:
            llm = model(server, max_retries=2)
        assert (llm._client is None) == (built == "late")

        with pytest.raises(Exception, match="error"):
            ask(llm, asynchronous)
        assert len(server.requests) == 3

        durable = durable_llm(llm, role="llm", config=StepConfig())
        with pytest.raises(Exception, match="error"):
            ask(durable, asynchronous)
        assert len(server.requests) == 6, "outside a run it is an ordinary LLM"

        def plan() -> str:
            with joined("work") as scope:
                bound = durable_llm(llm, role="llm", config=StepConfig(), scope=scope)
                with pytest.raises(Exception, match="error"):
                    ask(bound, asynchronous)
            return "failed"

        run = run_id()
        assert finish(plan, run) == "failed"
        assert len(server.requests) == 7
        assert entries(run) == ["work#1/llm#1"]

        with pytest.raises(Exception, match="error"):
            ask(llm, asynchronous)
        assert len(server.requests) == 10, "the user's own LLM retries as before"


def test_the_users_client_is_left_alone() -> None:
    llm = model(max_retries=4)
    client = llm._client
    durable: Any = durable_llm(llm, role="llm", config=None)
    assert llm._client is client
    assert type(client) is openai.OpenAI
    assert client.max_retries == 4
    assert isinstance(durable._client, openai.OpenAI)
    assert durable._client.max_retries == 4
    assert durable._client.with_options(max_retries=1).max_retries == 1
    assert durable._client._client is client._client, "the connections are shared"


def test_a_rate_limit_is_retried_by_the_journal_alone(dbos: None) -> None:
    replies = iter([error(429, retry_after=0.01), error(429, retry_after=0.01), text("At last.")])
    config = StepConfig(retries_allowed=True, max_attempts=3, interval_seconds=0.01)
    with ModelServer(lambda request: next(replies)) as server:
        llm = model(server, max_retries=2)

        def plan() -> Any:
            with joined("work") as scope:
                durable: Any = durable_llm(llm, role="llm", config=config, scope=scope)
                return durable.call("Hi.")

        run = run_id()
        assert finish(plan, run) == "At last."
        assert len(server.requests) == 3
        assert entries(run) == ["work#1/llm#1"]


class Letter(BaseModel):
    text: str


def test_what_asks_for_an_object_past_the_llm_makes_one_attempt_in_a_recorded_call(
    dbos: None,
) -> None:
    with ModelServer(lambda request: error(500, retry_after=0.01)) as server:
        llm = model(server)

        def plan() -> str:
            with joined("work") as scope:
                durable: Any = durable_llm(llm, role="llm", config=StepConfig(), scope=scope)
                converter = recording(Converter)(
                    llm=durable, text="Hi.", model=Letter, instructions="As JSON.", max_attempts=1
                )
                return str(converter.to_json())

        run = run_id()
        assert "error" in finish(plan, run)
        assert len(server.requests) == 1
        assert entries(run) == ["work#1/conversion#1"]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_crewai_does_not_retry_what_the_journal_gave_up(dbos: None, asynchronous: bool) -> None:
    config = StepConfig(retries_allowed=True, max_attempts=2, interval_seconds=0.01)
    with ModelServer(lambda request: error(429, retry_after=0.01)) as server:
        llm = model(server)

        def plan() -> str:
            with joined("work") as scope:
                durable = durable_llm(llm, role="llm", config=config, scope=scope)
                with pytest.raises(openai.RateLimitError):
                    ask(durable, asynchronous)
            return "given up"

        run = run_id()
        assert finish(plan, run) == "given up"
        assert len(server.requests) == 2
        assert entries(run) == ["work#1/llm#1"]


def test_a_summary_of_a_long_conversation_has_a_place_of_its_own(dbos: None) -> None:
    said = [{"role": "user", "content": "Tell me more. " * 20}] * 3

    with ModelServer(lambda request: text("<summary>Much was told.</summary>")) as server:
        llm = model(server)

        def plan() -> Any:
            with joined("work") as scope:
                durable: Any = durable_llm(llm, role="llm", config=None, scope=scope)
                messages = list(said)
                durable.summarize_messages(messages, [], False)
                return [message["content"] for message in messages]

        run = run_id()
        kept = finish(plan, run)
        assert "Much was told." in kept[-1]
        [name] = entries(run)
        assert name.startswith("work#1/summary#1/llm(")
        assert replay(run) == kept
        assert len(server.requests) == 1


def test_crewais_own_retry_is_off_in_the_block_and_on_outside() -> None:
    response = httpx.Response(429, request=httpx.Request("POST", "http://x"))
    made: list[int] = []

    def limited() -> None:
        made.append(1)
        raise openai.RateLimitError("slow down", response=response, body=None)

    with llm_seam.without_rate_limit_retry(), pytest.raises(openai.RateLimitError):
        llm_retry.run_with_rate_limit_retry(limited, sleep=lambda seconds: None)
    assert len(made) == 1
    with pytest.raises(openai.RateLimitError):
        llm_retry.run_with_rate_limit_retry(limited, sleep=lambda seconds: None)
    assert len(made) > 2


class Offline(BaseLLM):
    """A model of the user's own."""

    def call(self, messages: Any, *args: Any, **kwargs: Any) -> str:
        return "offline"


def test_only_some_providers_ask_their_server_for_a_token_count() -> None:
    with ModelServer([]) as server:
        compatible = model(server)
    assert llm_seam.counts_tokens_remotely(model(), OpenAICompletion)
    assert not llm_seam.counts_tokens_remotely(compatible, OpenAICompletion)
    assert not llm_seam.counts_tokens_remotely(Offline(model="offline"), Offline)


def test_what_litellm_is_asked_is_put_together_where_we_change_it() -> None:
    [(name, changed)] = llm_seam.litellm_requests(LLM, dict).items()
    assert parameters(changed)[0] == "messages"
    for ask_litellm in (LLM.call, LLM.acall):
        assert f"params = self.{name}(" in inspect.getsource(ask_litellm)
    assert llm_seam.litellm_requests(Offline, dict) == {}


def test_an_llm_of_the_users_own_class_is_still_one(dbos: None) -> None:
    durable: Any = durable_llm(Offline(model="offline"), role="llm", config=None)
    assert isinstance(durable, Offline)
    assert durable.call("Hi.") == "offline"
    assert isinstance(create_llm(durable), Offline)


# Agent -----------------------------------------------------------------------------------


def clerk(**options: Any) -> Agent:
    return Agent(role="Clerk", goal="Work", backstory="Diligent.", llm=model(), **options)


def test_an_agent_keeps_its_state_where_we_look_for_it() -> None:
    names = {
        "_times_executed", "_token_process", "_tool_failures", "_last_messages", "_mcp_resolver",
        "_kickoff_event_id", "_rpm_controller",
    }  # fmt: skip
    assert names <= set(clerk().__pydantic_private__ or {})
    assert "_memory" in Crew.__private_attributes__


def test_a_limit_of_requests_is_asked_and_stopped_by_the_names_that_we_stand_in_for() -> None:
    controller: Any = clerk(max_rpm=3)._rpm_controller
    assert controller.check_or_wait() is True
    controller.stop_rpm_counter()
    assert clerk()._rpm_controller is None


def test_a_copy_of_an_agent_has_done_nothing_yet() -> None:
    agent = clerk()
    agent._times_executed = 3
    agent._last_messages = [{"role": "user", "content": "Hi."}]
    copied = copy.copy(agent)
    agent_seam.forget_agent_state(copied)
    assert (copied._times_executed, copied._last_messages, copied._tool_failures) == (0, [], [])
    copied._times_executed = 1
    copied._last_messages.append({"role": "user", "content": "Bye."})
    assert agent._times_executed == 3
    assert agent._last_messages == [{"role": "user", "content": "Hi."}]
    assert copied._token_process is not agent._token_process


def test_a_text_is_known_as_it_was_before_inputs_were_filled_in() -> None:
    agent = Agent(role="{who} clerk", goal="As {who}", backstory="{who} of all", llm=model())
    task = Task(description="Do {what}.", expected_output="{what} done.", agent=agent)
    of_agent, of_task = ("role", "goal", "backstory"), ("description", "expected_output")
    texts = [(agent, field) for field in of_agent] + [(task, field) for field in of_task]
    written = [getattr(thing, field) for thing, field in texts]
    agent.interpolate_inputs({"who": "Best"})
    task.interpolate_inputs_and_add_conversation_history({"what": "this"})
    assert [getattr(thing, field) for thing, field in texts] == [
        "Best clerk", "As Best", "Best of all", "Do this.", "this done.",
    ]  # fmt: skip
    assert [agent_seam.original_text(thing, field) for thing, field in texts] == written
    assert agent_seam.original_text(None, "role") is None


def test_what_an_agent_shows_after_a_run_is_shown_on_the_users() -> None:
    front, run = clerk(), clerk()
    run._last_messages = [{"role": "user", "content": "Hi."}]
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    for agent in (front, run):
        agent.llm._track_token_usage_internal(usage)  # type: ignore[union-attr]
    agent_seam.publish_agent_state(run, front)
    assert front.last_messages == [{"role": "user", "content": "Hi."}]
    assert front.llm.get_token_usage_summary().total_tokens == 14  # type: ignore[union-attr]


def test_a_kickoff_is_prepared_with_crewais_executor_first() -> None:
    agent = clerk()
    executor, *_ = agent._prepare_kickoff("Hi.")
    assert type(executor) is AgentExecutor
    assert isinstance(executor.use_better_compaction, bool)
    assert isinstance(agent.use_better_compaction, bool)


def test_guardrails_dates_and_caches_are_where_we_look_for_them() -> None:
    guardrail = LLMGuardrail(description="Be polite.", llm=model())
    assert isinstance(guardrail.llm, BaseLLM)
    agent = clerk(guardrail=guardrail)
    assert agent.guardrail is guardrail
    assert agent.tools_handler.cache is None
    assert clerk(cache=True).tools_handler.cache is not None


def test_a_date_that_is_settled_passes_crewais_check_and_comes_out_as_it_is() -> None:
    for written in ("2026-11-22", "Sunday, 100% sure"):
        settled = _Literal(written.replace("%", "%%"))
        assert any(code in settled for code in VALID_DATE_FORMAT_CODES)
        assert datetime.now().strftime(settled) == written
    assert not any(code in "2026-11-22" for code in VALID_DATE_FORMAT_CODES)


# The agent loop ----------------------------------------------------------------------------


def test_the_loop_has_the_methods_that_we_override() -> None:
    assert parameters(AgentExecutor._execute_single_native_tool_call) == ["tool_call"]
    assert parameters(AgentExecutor._prepare_tool_result_for_context) == ["execution_result"]
    assert parameters(AgentExecutor._ensure_step_executor) == []
    assert parameters(AgentExecutor.invoke) == ["inputs"]
    assert inspect.iscoroutinefunction(AgentExecutor.invoke_async)
    assert {"_step_executor", "_tool_result_artifact_store"} <= set(
        AgentExecutor.__private_attributes__
    )
    assert "original_tools" in AgentExecutor.model_fields
    names = ["todo", "context", "max_step_iterations", "step_timeout"]
    assert parameters(StepExecutor.execute) == names


def test_a_planned_step_has_a_number() -> None:
    assert TodoItem(step_number=2, description="Look it up.").step_number == 2


def test_our_executor_has_the_steps_of_crewais_flow() -> None:
    ours, theirs = DBOSAgentExecutor._flow_definition, AgentExecutor.flow_definition()
    assert theirs.methods
    assert ours.methods.keys() == theirs.methods.keys()


def test_a_tool_call_is_an_id_a_name_and_arguments() -> None:
    call = ChatCompletionMessageFunctionToolCall.model_validate(
        {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}
    )
    info = extract_tool_call_info(call)
    assert info is not None
    assert info[:2] == ("call_1", "add")
    assert info[2] in ('{"x": 1}', {"x": 1})
    assert extract_tool_call_info(object()) is None


def test_large_results_lie_where_their_content_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool_result_artifacts, "_TOOL_RESULT_TEMP_DIR", tmp_path)
    stores = [StableArtifacts(), StableArtifacts()]
    # A small result makes no folder, which a killed process would leave behind.
    StableArtifacts().cleanup()
    assert not list(tmp_path.iterdir())
    stored = [[store.store(content, 9).relative_path for content in "ab"] for store in stores]
    assert stored[0] == stored[1]
    assert len({*stored[0]}) == 2
    first = stores[0].store("c" * 100, 9)
    assert first.file_path.read_text() == "c" * 100
    folder = first.file_path.parent
    for store in stores:
        assert isinstance(store, ToolResultArtifactStore)
        store.cleanup()
    assert not folder.exists()
    assert not list(tmp_path.iterdir())


class Doubling(BaseTool):
    name: str = "doubling"
    description: str = "Doubles."

    def _run(self, x: int) -> int:
        return 2 * x


@tool
def tripling(x: int) -> int:
    """Triple a number."""
    return 3 * x


def test_both_ways_of_calling_a_tool_use_the_function_that_we_replace() -> None:
    doubling = Doubling().model_copy()
    object.__setattr__(doubling, "_run", lambda x: f"doubled {x}")
    three = tripling.model_copy()
    three.func = lambda x: f"tripled {x}"
    for changed, expected in ((doubling, "doubled 1"), (three, "tripled 1")):
        changed.current_usage_count = 0
        assert changed.run(x=1) == expected
        assert changed.to_structured_tool().invoke({"x": 1}) == expected
    assert Doubling().run(x=1) == 2
    assert tripling.run(x=1) == 3


# Flow --------------------------------------------------------------------------------------


class Total(BaseModel):
    id: str = ""
    sum: int = 0


class Adding(Flow[Total]):
    @start()
    def add(self) -> int:
        self.state.sum += 1
        return self.state.sum


def test_a_flow_keeps_its_state_and_its_clock_where_we_look_for_them() -> None:
    flow = Adding()
    assert flow_seam.type_of_state(Adding) is Total
    assert flow_seam.state_of(flow).sum == 0
    flow_seam.set_state(flow, Total(id="given", sum=41))
    assert flow.kickoff() == 42
    assert flow.state.sum == flow_seam.state_of(flow).sum == 42
    assert isinstance(flow_seam.now_of(flow), datetime)
    flow_seam.set_now(flow, datetime(2026, 11, 22))
    assert flow_seam.now_of(flow) == datetime(2026, 11, 22)
    private = {"_state", "_cel_now", "_deferred_flow_started_event_id", "_input_history"}
    assert private <= set(Flow.__private_attributes__)
    source = inspect.getsource(runtime)
    assert all(name in source for name in (flow_seam.STATE, *flow_seam.OF_THE_ENGINE))


def test_a_flow_has_its_methods_and_what_they_are_made_of_where_we_look_for_them() -> None:
    flow = Adding()
    assert [*flow_seam.methods_of(flow)] == [*flow_seam.definition_of(flow).methods] == ["add"]
    assert flow_seam.methods_of(flow)["add"].__self__ is flow
    assert flow_seam.tools_of_actions(flow) == ()
    assert not flow_seam.is_conversational(flow)
    with pytest.raises(ValueError, match="conversational"):
        flow.handle_turn("Hi.")
    assert "_tool_action_tools" in inspect.getsource(actions)


def test_a_flow_that_was_given_a_persistence_says_so(tmp_path: Path) -> None:
    kept = SQLiteFlowPersistence(str(tmp_path / "flows.db"))
    assert not flow_seam.saves_by_itself(Adding())
    assert flow_seam.saves_by_itself(Adding(persistence=kept))


def test_what_a_flow_shows_of_people_and_tokens_is_put_where_it_reads_it() -> None:
    flow = Adding()
    flow_seam.add_usage(flow, UsageMetrics(total_tokens=7))
    assert flow.usage_metrics.total_tokens == 7
    flow_seam.remember_input(flow, {"message": "Which?", "response": "This."})
    assert [each["message"] for each in flow._input_history] == ["Which?"]
    assert "self._input_history.append" in inspect.getsource(Flow.ask)
    assert flow_seam.stashed_review(flow, "add") is None
    review: Any = object()
    flow_seam.stash_review(flow, "add", review)
    assert flow_seam.stashed_review(flow, "add") is review
    assert "_human_feedback_method_outputs" in inspect.getsource(runtime)


# Events, memory, MCP -----------------------------------------------------------------------


class Happened(BaseEvent):
    type: str = "happened"


def test_the_bus_looks_its_handlers_up_where_we_stand() -> None:
    _patches.apply(_patches.RUN)
    _patches.apply(_patches.RUN)
    bus: Any = crewai_event_bus
    assert type(bus).__mro__.count(events._PlacedHandlers) == 1
    base = type(bus).__mro__[2]
    for function in (base._call_handlers, base._acall_handlers):
        assert parameters(function) == ["source", "event", "handlers", "state"]
    assert parameters(base.emit) == ["source", "event"]


def test_the_handlers_of_the_bus_are_found_with_the_names_of_their_events() -> None:
    def on_thread(source: Any, event: Happened) -> None: ...

    async def on_loop(source: Any, event: Happened) -> None: ...

    with crewai_event_bus.scoped_handlers():
        for handler in (on_thread, on_loop):
            crewai_event_bus.on(Happened)(handler)
        found = [function for name, function in event_handlers() if name == "Happened"]
    assert found == [on_thread, on_loop]


def test_what_has_no_event_of_its_end_is_left_all_the_same() -> None:
    before = get_current_parent_id()
    with scope_kept():
        push_event_scope("begun", "task_started")
        assert get_current_parent_id() == "begun"
    assert get_current_parent_id() == before


@pytest.mark.parametrize("inside", [False, True], ids=["outside a run", "in a run"])
def test_every_handler_hears_an_event_once(dbos: None, inside: bool) -> None:
    _patches.apply(_patches.RUN)
    heard: list[str] = []
    both = threading.Barrier(2)

    with crewai_event_bus.scoped_handlers():

        @crewai_event_bus.on(Happened)
        def on_thread(source: Any, event: Happened) -> None:
            heard.append("sync")
            both.wait(30)

        @crewai_event_bus.on(Happened)
        async def on_loop(source: Any, event: Happened) -> None:
            heard.append("async")
            await asyncio.to_thread(both.wait, 30)

        def plan() -> str:
            with joined("work"), events.handled():
                crewai_event_bus.emit(None, Happened())
            return "emitted"

        if inside:
            assert finish(plan, run_id()) == "emitted"
        else:
            future = crewai_event_bus.emit(None, Happened())
            if isinstance(future, Future):
                future.result(30)
    assert sorted(heard) == ["async", "sync"]


def test_memory_has_the_places_that_we_override() -> None:
    for name in ("_llm", "_embedder"):
        assert isinstance(inspect.getattr_static(Memory, name), property)
    assert {"_llm_instance", "_pending_saves"} <= set(Memory.__private_attributes__)
    assert parameters(Memory._submit_save) == ["fn", "args", "kwargs"]
    assert callable(Memory.drain_writes)
    assert parameters(Memory.recall)[0] == "query"
    for view in (MemoryScope, MemorySlice):
        assert "_memory" in view.__private_attributes__


def test_a_memory_in_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path))
    memory = Memory()
    assert (tmp_path / "memory").is_dir()
    assert is_in_default_folder(memory)
    assert not is_in_default_folder(Memory(storage=str(tmp_path / "given")))
    set_memory_storage_factory(lambda spec: SimpleNamespace())  # type: ignore[arg-type,return-value]
    try:
        assert not is_in_default_folder(Memory())
    finally:
        set_memory_storage_factory(None)


def test_the_tools_of_a_memory_take_another_memory() -> None:
    memory = Memory.model_construct(read_only=False)
    tools = create_memory_tools(memory)
    assert {type(tool) for tool in tools} == {RecallMemoryTool, RememberTool}
    assert {type(tool).__module__ for tool in tools} == {run_objects._MEMORY_TOOLS}
    other = Memory.model_construct(read_only=False)
    for memory_tool in tools:
        assert memory_tool.memory is memory  # type: ignore[attr-defined]
        assert memory_tool.model_copy(update={"memory": other}).memory is other  # type: ignore[attr-defined]


def test_knowledge_is_asked_by_the_two_methods_that_we_override() -> None:
    assert parameters(Knowledge.query)[0] == parameters(Knowledge.aquery)[0]
    assert inspect.iscoroutinefunction(Knowledge.aquery)


def test_mcp_servers_are_asked_through_a_name_that_we_replace() -> None:
    _patches.apply(_patches.RUN)
    _patches.apply(_patches.MCP)
    assert vars(tool_resolver)["MCPClient"] is mcp_discovery.RecordedDiscovery
    assert issubclass(mcp_discovery.RecordedDiscovery, MCPClient)
    assert inspect.iscoroutinefunction(MCPClient.connect)
    assert inspect.iscoroutinefunction(MCPClient.list_tools)
    assert parameters(MCPClient.list_tools) == ["use_cache"]
    assert parameters(MCPClient.connect) == []
    resolver = vars(tool_resolver)["MCPToolResolver"]
    functions = [f for _, f in inspect.getmembers(resolver, inspect.isfunction)]
    assert any("MCPClient" in function.__code__.co_names for function in functions)


def test_the_handler_of_its_telemetry_is_known() -> None:
    """It is set when crewAI is imported, where the telemetry is not disabled."""
    before, stopping = signal.getsignal(signal.SIGTERM), SimpleNamespace(_original_handlers={})
    assert not ends_the_process(lambda *_: None)
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert ends_the_process(signal.SIG_DFL)
        Telemetry._register_signal_handler(stopping, signal.SIGTERM, SigTermEvent)
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert ends_the_process(signal.getsignal(signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)
