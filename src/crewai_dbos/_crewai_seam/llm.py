"""What is private in crewAI's LLMs, and what of them threads share."""

from __future__ import annotations

import copy
import functools
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeGuard

from crewai import LLM
from crewai.llms import base_llm as _base_llm
from crewai.llms import retry as _llm_retry
from crewai.llms.base_llm import BaseLLM

from crewai_dbos._setting import setting

PROVIDER_STATE = ("_last_response_id", "_last_reasoning_items", "_previous_thinking_blocks")
"""What a provider remembers of its last request and sends with the next one."""

_CLIENTS = ("_client", "_async_client")
_DELEGATE = "_responses_delegate"


def is_llm(thing: Any) -> TypeGuard[BaseLLM]:
    """Whether `thing` is an LLM of crewAI's, and does not only say so, as a mock does."""
    return issubclass(type(thing), BaseLLM)


_PARTS = (
    "__dict__",
    "__pydantic_extra__",
    "__pydantic_fields_set__",
    "__pydantic_private__",
)


def shallow_copy(llm: BaseLLM) -> BaseLLM:
    """A copy of `llm` that shares what it holds.

    The copy that an `LLM` makes of itself lacks some of its options, its class and its counters.
    """
    if type(llm).__copy__ is not LLM.__copy__:
        return copy.copy(llm)
    made = object.__new__(type(llm))
    for name in _PARTS:
        object.__setattr__(made, name, copy.copy(getattr(llm, name)))
    return made


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


def replace_clients(llm: BaseLLM, replace: Callable[[Any], Any]) -> None:
    """Put `replace(client)` in place of each client of an SDK that `llm` has built."""
    private = llm.__pydantic_private__ or {}
    for name in _CLIENTS:
        if private.get(name) is not None:
            private[name] = replace(private[name])


def client_builders(cls: type[BaseLLM], replace: Callable[[Any], Any]) -> dict[str, Any]:
    """Methods for a subclass of `cls` that do the same with clients built later.

    `replace` is given a coroutine where the client is awaited.
    """

    def replacing(build: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(build)
        def built(llm: BaseLLM, *args: Any, **kwargs: Any) -> Any:
            return replace(build(llm, *args, **kwargs))

        return built

    names = (
        "_build_sync_client",
        "_build_async_client",
        "_ensure_async_client",
        "_initialize_client",
    )
    return {name: replacing(getattr(cls, name)) for name in names if hasattr(cls, name)}


def litellm_requests(
    cls: type[BaseLLM], change: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """Methods for a subclass of `cls` that `change` the parameters of what goes through LiteLLM."""
    if not issubclass(cls, LLM):
        return {}
    prepare = cls._prepare_completion_params

    @functools.wraps(prepare)
    def prepared(llm: LLM, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return change(prepare(llm, *args, **kwargs))

    return {"_prepare_completion_params": prepared}


def client_of_instructor(instructor: Any) -> Any:
    """What an `InternalInstructor` asks through: instructor's client, which it has made."""
    return instructor._client


def counts_tokens_remotely(llm: Any, cls: type[BaseLLM]) -> bool:
    """Whether counting a prompt's tokens with `llm`, a `cls`, may be a request to the provider."""
    if cls.get_input_tokens_count is BaseLLM.get_input_tokens_count:
        return False
    compatible = getattr(llm, "_on_compatible_server", None)
    return not (llm.is_litellm or (callable(compatible) and compatible()))


_OF_AN_ADDRESS = re.compile(r"call_[0-9]{8,}")


def with_stable_ids(messages: Any) -> Any:
    """`messages` as they are in every process.

    Where a provider gives a tool call no id, crewAI makes one of the address of the object. Here it
    is the place in the conversation.
    """
    if not isinstance(messages, list):
        return messages
    numbers: dict[str, str] = {}
    made = 0

    def stable(message: Any) -> Any:
        nonlocal made
        if not isinstance(message, dict):
            return message
        if message.get("tool_call_id") in numbers:
            return {**message, "tool_call_id": numbers[message["tool_call_id"]]}
        calls = message.get("tool_calls")
        if not isinstance(calls, list) or not any(map(_has_address, calls)):
            return message
        changed = []
        for call in calls:
            if _has_address(call):
                made += 1
                # An address may have been that of an earlier call.
                numbers[call["id"]] = f"call_{made}"
                call = {**call, "id": numbers[call["id"]]}
            changed.append(call)
        return {**message, "tool_calls": changed}

    return [stable(message) for message in messages]


def _has_address(call: Any) -> bool:
    call_id = call.get("id") if isinstance(call, dict) else None
    return isinstance(call_id, str) and _OF_AN_ADDRESS.fullmatch(call_id) is not None


def without_rate_limit_retry() -> AbstractContextManager[Any]:
    """crewAI's own retry of rate limits is off in this block."""
    return setting(_llm_retry._active_llm_rate_limit_retry, True)


@contextmanager
def asked_for(original: BaseLLM, copied: BaseLLM) -> Iterator[None]:
    """In the block `copied` is asked as `original` would be here: to stream, to stop at words.

    crewAI keeps what it wants of one call by the identity of the LLM.
    """
    stream = (_base_llm._call_stream_override_var.get() or {}).get(id(original))
    stop = (_base_llm._call_stop_override_var.get() or {}).get(id(original))
    with ExitStack() as wanted:
        if stream is not None:
            wanted.enter_context(_base_llm.call_stream_override(copied, stream))
        if stop is not None:
            wanted.enter_context(_base_llm.call_stop_override(copied, stop))
        yield


def asked_through(llm: BaseLLM) -> BaseLLM:
    """The LLM that sends the requests of `llm`: itself, or one inside it (Azure's responses)."""
    delegate = (llm.__pydantic_private__ or {}).get(_DELEGATE)
    return delegate if isinstance(delegate, BaseLLM) else llm


def ask_through(llm: BaseLLM, delegate: BaseLLM) -> None:
    """Let `llm` send its requests through `delegate`."""
    assert llm.__pydantic_private__ is not None
    llm.__pydantic_private__[_DELEGATE] = delegate


# Token usage -------------------------------------------------------------------

counting = threading.Lock()
"""Held while token counters that threads share are changed."""


def usage_of(llm: BaseLLM) -> dict[str, int]:
    """The counters of `llm`, which it may share with others."""
    return llm._token_usage


def share_usage(durable: BaseLLM, original: BaseLLM) -> BaseLLM:
    """Let `durable` count its tokens where `original` does. Returns `durable`."""
    durable._token_usage = original._token_usage
    return durable


def count_usage(llm: BaseLLM, usage: Mapping[str, Any]) -> None:
    """Count on `llm` what a provider has said of the `usage` of one request."""
    llm._track_token_usage_internal(dict(usage))
