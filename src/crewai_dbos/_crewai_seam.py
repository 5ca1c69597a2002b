"""Everything of crewAI that is not public, in one place. Read against crewai 1.15.30.

`tests/test_crewai_seam.py` fails when one of these moves.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from crewai import Agent, Crew, Task
from crewai.agents.agent_builder.utilities.base_token_process import TokenProcess
from crewai.events.event_bus import crewai_event_bus
from crewai.llms import retry as _llm_retry
from crewai.llms.base_llm import BaseLLM
from crewai.utilities.planning_handler import CrewPlanner
from crewai.utilities.rpm_controller import RPMController
from pydantic import BaseModel

from crewai_dbos._journal.open_calls import open_call

PROVIDER_STATE = ("_last_response_id", "_last_reasoning_items", "_previous_thinking_blocks")
"""What a provider remembers of its last request and sends with the next one."""

_CLIENTS = ("_client", "_async_client")
_DELEGATE = "_responses_delegate"


# LLM ---------------------------------------------------------------------------


def forget_shared_state(llm: BaseLLM) -> None:
    """Give a shallow copy of an LLM counters and a conversation of its own."""
    private = dict(llm.__pydantic_private__ or {})
    object.__setattr__(llm, "__pydantic_private__", private)
    private["_token_usage"] = dict.fromkeys(llm._token_usage, 0)
    for name in PROVIDER_STATE:
        if name in private:
            private[name] = None
    # An async client belongs to the event loop it was first used on.
    if "_async_client" in private and hasattr(llm, "_get_async_client"):
        private["_async_client"] = None
        if "_async_client_initialized" in private:
            private["_async_client_initialized"] = False


def one_layer_of_retries(llm: BaseLLM) -> None:
    """Inside a recorded call the SDK's clients make one attempt; the journal retries."""
    private = llm.__pydantic_private__ or {}
    for name in _CLIENTS:
        if private.get(name) is not None:
            private[name] = _single_attempt(private[name])


def single_attempt_builders(cls: type[BaseLLM]) -> dict[str, Any]:
    """Methods for a subclass of `cls` that do the same for clients built later."""
    names = ("_build_sync_client", "_build_async_client")
    return {
        name: _single_attempt_builder(getattr(cls, name)) for name in names if hasattr(cls, name)
    }


def _single_attempt_builder(build: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(build)
    def built(llm: BaseLLM) -> Any:
        return _single_attempt(build(llm))

    return built


def _single_attempt(client: Any) -> Any:
    if not hasattr(client, "with_options") or not hasattr(client, "max_retries"):
        return client
    copied = client.with_options()
    if not hasattr(type(copied), "_crewai_dbos_retries"):
        copied.__class__ = _single_attempt_class(type(copied))  # type: ignore[arg-type]
    return copied


@functools.cache
def _single_attempt_class(cls: Any) -> type:
    def max_retries(client: Any) -> int:
        return 0 if open_call() else int(client.__dict__["max_retries"])

    def set_max_retries(client: Any, value: int) -> None:
        client.__dict__["max_retries"] = value

    body = {"max_retries": property(max_retries, set_max_retries), "_crewai_dbos_retries": True}
    return type(cls.__name__, (cls,), body)


def build_response_models() -> None:
    """Have openai build the classes of a response. Any number of times.

    It does so at the first response, and threads that come first together can meet a half-built
    one: "Pydantic models should inherit from BaseModel, BaseModel cannot be instantiated directly".
    """
    if "openai.types.chat" in sys.modules:
        with _building:
            _build_response_models()


_building = threading.Lock()


@functools.cache
def _build_response_models() -> None:
    from openai.types import chat

    # Their members that are unions are not built with them.
    for cls in vars(chat).values():
        if isinstance(cls, type) and issubclass(cls, BaseModel):
            cls.model_rebuild()
    call = {"id": "", "type": "function", "function": {"name": "", "arguments": "{}"}}
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    usage: Any = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    usage |= {"prompt_tokens_details": {}, "completion_tokens_details": {}}
    chat.ChatCompletion.construct(
        id="",
        object="chat.completion",
        created=0,
        model="",
        choices=[{"index": 0, "finish_reason": "stop", "message": message}],
        usage=usage,
    )
    chat.ChatCompletionChunk.construct(
        id="",
        object="chat.completion.chunk",
        created=0,
        model="",
        choices=[{"index": 0, "delta": {**message, "tool_calls": [{**call, "index": 0}]}}],
        usage=usage,
    )


def counts_tokens_remotely(llm: Any, cls: type[BaseLLM]) -> bool:
    """Whether counting a prompt's tokens with `llm`, a `cls`, may be a request to the provider."""
    if cls.get_input_tokens_count is BaseLLM.get_input_tokens_count:
        return False
    compatible = getattr(llm, "_on_compatible_server", None)
    return not (llm.is_litellm or (callable(compatible) and compatible()))


@contextmanager
def without_rate_limit_retry() -> Iterator[None]:
    """crewAI's own retry of rate limits is off in this block."""
    token = _llm_retry._active_llm_rate_limit_retry.set(True)
    try:
        yield
    finally:
        _llm_retry._active_llm_rate_limit_retry.reset(token)


# Task --------------------------------------------------------------------------


def hand_signals_to_futures() -> None:
    """Let a task on a thread of its own tell the crew what ended its run. Any number of times.

    crewAI passes on an `Exception` only; after anything else the crew would wait for ever.
    """
    original = Task._execute_task_async
    if hasattr(original, "_crewai_dbos"):
        return

    @functools.wraps(original)
    def execute(task: Task, agent: Any, context: Any, tools: Any, future: Future[Any]) -> None:
        try:
            original(task, agent, context, tools, future)
        except BaseException as signal:
            future.set_exception(signal)

    execute._crewai_dbos = True  # type: ignore[attr-defined]
    Task._execute_task_async = execute  # type: ignore[method-assign, assignment]


# Events ------------------------------------------------------------------------


def event_handlers() -> Iterator[tuple[str, Callable[..., Any]]]:
    """The handlers on the event bus, each with the name of its event; crewAI's own too."""
    bus: Any = crewai_event_bus
    for handlers in (dict(bus._sync_handlers), dict(bus._async_handlers)):
        for event, functions in handlers.items():
            for function in functions:
                yield event.__name__, function


# Agent -------------------------------------------------------------------------


def forget_agent_state(agent: Agent) -> None:
    """Give a shallow copy of an agent the private state of one that has done nothing yet."""
    private = dict(agent.__pydantic_private__ or {})
    object.__setattr__(agent, "__pydantic_private__", private)
    fresh = {
        "_times_executed": 0,
        "_token_process": TokenProcess(),
        "_tool_failures": [],
        "_last_messages": [],
        "_mcp_resolver": None,
        "_kickoff_event_id": None,
    }
    private.update({name: value for name, value in fresh.items() if name in private})


def asked_through(llm: BaseLLM) -> BaseLLM:
    """The LLM that sends the requests of `llm`: itself, or one inside it (Azure's responses)."""
    delegate = (llm.__pydantic_private__ or {}).get(_DELEGATE)
    return delegate if isinstance(delegate, BaseLLM) else llm


def ask_through(llm: BaseLLM, delegate: BaseLLM) -> None:
    """Let `llm` send its requests through `delegate`."""
    assert llm.__pydantic_private__ is not None
    llm.__pydantic_private__[_DELEGATE] = delegate


def share_usage(durable: BaseLLM, original: BaseLLM) -> BaseLLM:
    """Let `durable` count its tokens where `original` does. Returns `durable`."""
    durable._token_usage = original._token_usage
    return durable


counting = threading.Lock()
"""Held while token counters that threads share are changed."""


def publish_agent_state(run: Agent, front: Agent) -> None:
    """Show on the user's agent what crewAI reads from it after a run: last messages, usage."""
    front._last_messages = list(run._last_messages)
    front._tool_failures = list(run._tool_failures)
    if isinstance(front.llm, BaseLLM) and isinstance(run.llm, BaseLLM):
        total = front.llm._token_usage
        with counting:
            for counter, spent in run.llm._token_usage.items():
                total[counter] = total.get(counter, 0) + spent


# Crew --------------------------------------------------------------------------


def forget_task_state(task: Task) -> None:
    """Give a shallow copy of a task the state of one that has not been executed."""
    private = dict(task.__pydantic_private__ or {})
    object.__setattr__(task, "__pydantic_private__", private)
    private.update({"_guardrail_retry_counts": {}, "_thread": None})
    task.__dict__.update(
        output=None,
        used_tools=0,
        tools_errors=0,
        delegations=0,
        retry_count=0,
        processed_by_agents=set(),
        prompt_context=None,
        start_time=None,
        end_time=None,
    )


def replace_guardrails(task: Task, replace: Callable[[Any], Any]) -> None:
    """Put `replace(guardrail)` in place of each guardrail that `task`, a copy, calls."""
    if task._guardrail is not None:
        task._guardrail = replace(task._guardrail)
    task._guardrails = [replace(guardrail) for guardrail in task._guardrails]


class NoTaskOutputs:
    """In place of the SQLite file in the home directory that all crews of a user share."""

    def reset(self) -> None: ...

    def update(self, task_index: int, log: dict[str, Any]) -> None: ...

    def load(self) -> None:
        return None


def forget_crew_state(crew: Crew) -> None:
    """Give a shallow copy of a crew the private state of one that has not been kicked off."""
    private = dict(crew.__pydantic_private__ or {})
    object.__setattr__(crew, "__pydantic_private__", private)
    private.update(
        {
            "_rpm_controller": RPMController(max_rpm=crew.max_rpm, logger=crew._logger),
            "_task_output_handler": NoTaskOutputs(),
            "_inputs": None,
            "_kickoff_event_id": None,
            "_execution_start_dispatched": False,
            "_execution_end_dispatched": False,
        }
    )
    crew.__dict__.update(usage_metrics=None, token_usage=None, execution_logs=[])


def default_planner() -> str:
    """The model that plans a crew without a ``planning_llm``."""
    return str(CrewPlanner(tasks=[]).planning_agent_llm)
