"""Token usage, as providers tell of it and as entries keep it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crewai.types.usage_metrics import UsageMetrics

_KNOWN = frozenset(
    {
        "total_tokens",
        "prompt_tokens",
        "prompt_token_count",
        "input_tokens",
        "completion_tokens",
        "candidates_token_count",
        "output_tokens",
        "cached_tokens",
        "cached_prompt_tokens",
        "cache_read_input_tokens",
        "cache_creation_tokens",
        "cache_creation_input_tokens",
        "reasoning_tokens",
        "prompt_tokens_details",
        "completion_tokens_details",
        "inputTokens",
        "outputTokens",
        "totalTokens",
        "cacheReadInputTokens",
        "cacheReadInputTokenCount",
        "cacheWriteInputTokens",
        "cacheWriteInputTokenCount",
    }
)


def known(usage: Mapping[str, Any]) -> dict[str, Any]:
    """The counts of `usage` under names that crewAI reads; a server may send others."""
    found: dict[str, Any] = {}
    for name, item in usage.items():
        if name in _KNOWN:
            found[name] = known(item) if isinstance(item, Mapping) else item
    return found


def counted(extra: Mapping[str, Any]) -> UsageMetrics:
    """What the requests of an entry used.

    Args:
        extra: What the entry keeps beside its result.
    """
    # Names of entries and their counts are read without crewAI, which takes seconds to import.
    from crewai.types.usage_metrics import UsageMetrics

    total = UsageMetrics()
    for usage in extra.get("usage", ()):
        if (metrics := UsageMetrics.from_provider_dict(usage)) is not None:
            total.add_usage_metrics(metrics)
    return total


@dataclass(frozen=True)
class Tokens:
    """Counts of LLM requests, as `UsageMetrics` of crewAI has them.

    Attributes:
        total: `prompt` and `completion`.
        prompt: What was sent, `cached` included.
        completion: What was answered, `reasoning` included.
        cached: Of the prompt, what the provider had read before.
        reasoning: Of the completion, what the model only thought.
        cache_creation: Of the prompt, what the provider kept for later.
        requests: How many requests these are of.

    Example::

        tokens = control.run(run_id).tokens
        print(tokens.prompt, tokens.completion, tokens.requests)
    """

    total: int = 0
    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0
    cache_creation: int = 0
    requests: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(*map(sum, zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Spent:
    """What the LLM requests of an entry have used.

    Attributes:
        model: That was asked; None in entries of earlier releases, which do not say.
        tokens: What that took.
    """

    model: str | None
    tokens: Tokens


def spent_in(stored: Any) -> list[Spent]:
    """What an entry says that its LLM requests have used, sealed or not.

    Args:
        stored: The JSON data of the entry, or of anything else.
    """
    if not isinstance(stored, Mapping) or not isinstance(stored.get("kind"), str):
        return []
    extra = stored.get("extra")
    usage = extra.get("usage") if isinstance(extra, Mapping) else None
    if not isinstance(usage, list) or not all(isinstance(each, Mapping) for each in usage):
        return []
    models = stored.get("models")
    if not isinstance(models, list) or len(models) != len(usage):
        models = [stored.get("model")] * len(usage)
    known = (model if isinstance(model, str) else None for model in models)
    return [Spent(m, tokens_of({"usage": [u]})) for m, u in zip(known, usage, strict=True)]


def tokens_of(extra: Mapping[str, Any]) -> Tokens:
    """What the requests of an entry used, without crewAI, which takes seconds to import.

    Args:
        extra: What the entry keeps beside its result.
    """
    total = Tokens()
    for usage in extra.get("usage", ()):
        if usage:
            total += _tokens(usage)
    return total


def _tokens(usage: Mapping[str, Any]) -> Tokens:
    """As `UsageMetrics.from_provider_dict` of crewAI reads them, or its LLM of Bedrock."""
    if "inputTokens" in usage or "outputTokens" in usage:
        return _of_bedrock(usage)
    read = _first(usage, "cache_read_input_tokens")
    created = _first(usage, "cache_creation_tokens", "cache_creation_input_tokens")
    if "input_tokens" in usage and _SPLIT & usage.keys():
        prompt = _first(usage, "input_tokens") + read + _first(usage, "cache_creation_input_tokens")
    else:
        prompt = _first(usage, "prompt_tokens", "prompt_token_count", "input_tokens")
    completion = _first(usage, "completion_tokens", "candidates_token_count", "output_tokens")
    cached = _first(usage, "cached_tokens", "cached_prompt_tokens", "cache_read_input_tokens")
    return Tokens(
        total=prompt + completion,
        prompt=prompt,
        completion=completion,
        cached=cached or _first(_inside(usage, "prompt_tokens_details"), "cached_tokens"),
        reasoning=_first(usage, "reasoning_tokens"),
        cache_creation=created,
        requests=1,
    )


def _of_bedrock(usage: Mapping[str, Any]) -> Tokens:
    completion = _first(usage, "outputTokens")
    cached = _first(usage, "cacheReadInputTokenCount", "cacheReadInputTokens")
    created = _first(usage, "cacheWriteInputTokenCount", "cacheWriteInputTokens")
    # What is read from or kept in its cache stands beside ``inputTokens``, and in the total.
    total = _first(usage, "totalTokens")
    prompt = total - completion if total else _first(usage, "inputTokens") + cached + created
    return Tokens(prompt + completion, prompt, completion, cached, 0, created, requests=1)


_SPLIT = {"cache_read_input_tokens", "cache_creation_input_tokens"}
"""Anthropic counts these beside ``input_tokens``, others inside."""


def _inside(usage: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = usage.get(name)
    return found if isinstance(found, Mapping) else {}


def _first(usage: Mapping[str, Any], *names: str) -> int:
    found = (usage.get(name) for name in names)
    return next((int(n) for n in found if isinstance(n, (int, float)) and n and isfinite(n)), 0)
