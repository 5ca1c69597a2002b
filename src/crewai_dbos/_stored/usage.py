"""Token usage, as providers tell of it and as entries keep it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
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
    """As `UsageMetrics.from_provider_dict` of crewAI reads them."""
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


_SPLIT = {"cache_read_input_tokens", "cache_creation_input_tokens"}
"""Anthropic counts these beside ``input_tokens``, others inside."""


def _inside(usage: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = usage.get(name)
    return found if isinstance(found, Mapping) else {}


def _first(usage: Mapping[str, Any], *names: str) -> int:
    return next((int(usage[name]) for name in names if usage.get(name)), 0)
