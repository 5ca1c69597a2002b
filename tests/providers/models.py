"""The providers: crewAI's own class for each, its SDK, and a server that stands in for it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from crewai import LLM
from crewai.llms.base_llm import BaseLLM
from pydantic import PrivateAttr

from providers.server import Wire
from providers.wires import (
    AnthropicWire,
    AzureWire,
    BedrockWire,
    GeminiWire,
    OwnWire,
    ResponsesWire,
)
from support.databases import some_here

KEY = "kT7-provider-key-Zq81xw"
SECRET = "wJalr-provider-secret-K7MDENG90"

URL = "PROVIDER_TEST_URL"
"""The environment variable that has the address of the server."""


@dataclass(frozen=True)
class Provider:
    """A provider of models.

    Attributes:
        wire: What it speaks.
        build: Makes crewAI's LLM for it, which asks the server that the environment names.
        calls_in_streams: Whether crewAI reads tool calls out of its streams.
        objects_in_streams: Whether one streamed request is what crewAI asks for an object.
        counts: Which of the tokens that it tells crewAI counts, beside those of the prompt and
            the answer.
    """

    wire: type[Wire]
    build: Callable[..., BaseLLM]
    calls_in_streams: bool = True
    objects_in_streams: bool = True
    counts: frozenset[str] = frozenset({"cached", "reasoning"})


def _azure(**options: Any) -> BaseLLM:
    return LLM(model="azure/gpt-4o-mini", api_key=KEY, endpoint=os.environ[URL], **options)


def _responses(**options: Any) -> BaseLLM:
    url = f"{os.environ[URL]}/v1"
    return LLM(model="openai/gpt-4o-mini", api="responses", api_key=KEY, base_url=url, **options)


def _anthropic(**options: Any) -> BaseLLM:
    url = os.environ[URL]
    thinking = {"type": "enabled", "budget_tokens": 1024}
    options = {"thinking": thinking, "max_tokens": 4096, **options}
    return LLM(model="anthropic/claude-3-7-sonnet", api_key=KEY, base_url=url, **options)


def _gemini(**options: Any) -> BaseLLM:
    where = {"http_options": {"base_url": os.environ[URL]}}
    return LLM(model="gemini/gemini-2.5-flash", api_key=KEY, client_params=where, **options)


def _bedrock(**options: Any) -> BaseLLM:
    keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    return LLM(model="bedrock/anthropic.claude-3-haiku-20240307-v1:0", **keys, **options)


class OwnLLM(BaseLLM):
    """An LLM class as a user writes one: sync, with tools, and no ids for their calls."""

    _key: str = PrivateAttr(default=KEY)

    def call(self, messages: Any, tools: Any = None, *_: Any, **more: Any) -> Any:
        model = more.get("response_model")
        headers = {"authorization": f"Bearer {self._key}"}
        said = [{"role": m["role"], "content": m.get("content")} for m in _listed(messages)]
        asked = {"messages": said, "tools": bool(tools), "wants": model is not None}
        with httpx.Client(headers=headers) as client:
            response = client.post(f"{os.environ[URL]}/ask", json=asked)
        try:
            response.raise_for_status()
        except httpx.HTTPStatusError as error:
            raise RuntimeError(response.json()["message"]) from error
        answer = response.json()
        self._track_token_usage_internal(answer["usage"])
        if model is not None:
            return model.model_validate_json(answer["text"])
        return answer["calls"] or answer["text"]

    async def acall(self, *args: Any, **options: Any) -> Any:
        return self.call(*args, **options)

    def supports_function_calling(self) -> bool:
        return True


def _listed(messages: Any) -> Any:
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else messages


def _own(**options: Any) -> BaseLLM:
    return OwnLLM(model="own", **options)


def _litellm(**options: Any) -> BaseLLM:
    url = os.environ[URL]
    return LLM(model="openai/gpt-4o-mini", is_litellm=True, api_key=KEY, base_url=url, **options)


_CACHED = frozenset({"cached"})

_NATIVE = {
    "anthropic": Provider(AnthropicWire, _anthropic, counts=_CACHED),
    "azure": Provider(AzureWire, _azure, counts=frozenset()),
    "bedrock": Provider(BedrockWire, _bedrock, calls_in_streams=False, counts=_CACHED),
    "gemini": Provider(GeminiWire, _gemini),
    "own": Provider(OwnWire, _own, calls_in_streams=False, counts=frozenset()),
    "responses": Provider(ResponsesWire, _responses, calls_in_streams=False),
}
_LITELLM = {"litellm": Provider(AzureWire, _litellm, objects_in_streams=False, counts=frozenset())}

# Both do not fit into one environment.
WITH_LITELLM = os.environ.get("PROVIDER_TEST_WITH") == "litellm"
PROVIDERS = _LITELLM if WITH_LITELLM else _NATIVE

KILLED = ["anthropic", "litellm", "own"]
"""In ``make test``: one with thoughts that are signed, and one whose calls have no ids."""


def covering(*ways: Sequence[str]) -> list[Any]:
    """Providers with ways to ask: each with one of every sequence in turn, in ``make test``.

    With LiteLLM, which `make every-moment` has not, it is every way.
    """
    every = list(itertools.product(PROVIDERS, [way for each in ways for way in each]))
    if WITH_LITELLM:
        return every
    here = [
        (provider, each[(number + place) % len(each)])
        for number, provider in enumerate(PROVIDERS)
        for place, each in enumerate(ways)
    ]
    return some_here(every, here)


def environment(url: str) -> dict[str, str]:
    """What points every provider's SDK at the server at `url`."""
    found = {URL: url, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": url}
    # To ask for an object crewAI gives LiteLLM neither the key nor the address of its LLM.
    asked = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": url, "OPENAI_API_BASE": url}
    return {**found, **asked} if WITH_LITELLM else found
