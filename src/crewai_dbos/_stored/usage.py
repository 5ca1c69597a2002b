"""Token usage, as providers tell of it and as entries keep it."""

from __future__ import annotations

from collections.abc import Mapping
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
