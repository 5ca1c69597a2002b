"""The clients of a provider's SDK in a durable LLM: one attempt inside a recorded call."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import Any

from crewai.llms.base_llm import BaseLLM
from pydantic import BaseModel

from crewai_dbos._crewai_seam.llm import (
    client_builders,
    client_of_instructor,
    litellm_requests,
    replace_clients,
)
from crewai_dbos._objects.llm_request import note_usage
from crewai_dbos._objects.single_attempt import (
    one_attempt_of_instructor,
    single_attempt,
    single_request,
)


def one_layer_of_retries(llm: BaseLLM) -> None:
    """Inside a recorded call the SDK's clients make one attempt; the journal retries."""
    replace_clients(llm, single_attempt)


def single_attempt_builders(cls: type[BaseLLM]) -> dict[str, Any]:
    """Methods for a subclass of `cls` that do the same for clients built later, and in LiteLLM."""
    return {**client_builders(cls, single_attempt), **litellm_requests(cls, single_request)}


def asking_once(to_pydantic: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """For `InternalInstructor.to_pydantic`, whose clients are its own and not the LLM's."""

    @functools.wraps(to_pydantic)
    def asked(instructor: Any) -> Any:
        one_attempt_of_instructor(client_of_instructor(instructor))
        answer = to_pydantic(instructor)
        # crewAI does not look at it; instructor leaves what the provider has sent on the answer.
        if (usage := getattr(getattr(answer, "_raw_response", None), "usage", None)) is not None:
            note_usage(usage)
        return answer

    return asked


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
