"""Token usage, as providers tell of it and as entries keep it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crewai.types.usage_metrics import UsageMetrics


def counted(extra: Mapping[str, Any]) -> UsageMetrics:
    """What the requests of an entry used.

    Args:
        extra: What the entry keeps beside its result.
    """
    total = UsageMetrics()
    for usage in extra.get("usage", ()):
        if (metrics := UsageMetrics.from_provider_dict(usage)) is not None:
            total.add_usage_metrics(metrics)
    return total
