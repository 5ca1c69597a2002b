"""Tokens of a call are counted as crewAI counts them, without importing it."""

from __future__ import annotations

from typing import Any

import pytest
from crewai.types.usage_metrics import UsageMetrics

from crewai_dbos._stored.usage import Tokens, tokens_of

USAGES: list[dict[str, Any]] = [
    {},
    {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 5}, "reasoning_tokens": 2},
    {"prompt_tokens": 7, "cached_prompt_tokens": 4, "prompt_tokens_details": None},
    {"prompt_token_count": 9, "candidates_token_count": 2, "cached_tokens": 1},
    {"input_tokens": 7, "output_tokens": 3},
    {"input_tokens": 7, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2},
    {"input_tokens": 7, "cache_creation_tokens": 3},
]


@pytest.mark.parametrize("usage", USAGES, ids=lambda usage: ",".join(usage) or "none")
def test_as_crewai_counts_them(usage: dict[str, Any]) -> None:
    found, expected = tokens_of({"usage": [usage]}), UsageMetrics.from_provider_dict(usage)
    assert found == (
        Tokens()
        if expected is None
        else Tokens(
            total=expected.total_tokens,
            prompt=expected.prompt_tokens,
            completion=expected.completion_tokens,
            cached=expected.cached_prompt_tokens,
            reasoning=expected.reasoning_tokens,
            cache_creation=expected.cache_creation_tokens,
            requests=expected.successful_requests,
        )
    )
    assert tokens_of({"usage": [usage, usage]}) == found + found


def test_bedrock_counts_what_it_has_cached_beside_the_rest() -> None:
    usage = {"inputTokens": 3, "outputTokens": 2, "cacheReadInputTokens": 40, "totalTokens": 45}
    assert tokens_of({"usage": [usage]}) == Tokens(45, 43, 2, cached=40, requests=1)
    del usage["totalTokens"]
    assert tokens_of({"usage": [usage]}) == Tokens(45, 43, 2, cached=40, requests=1)


@pytest.mark.parametrize("odd", ["7", float("nan"), float("inf"), None, [], {}])
def test_what_is_no_count_counts_as_nothing(odd: Any) -> None:
    found = tokens_of({"usage": [{"prompt_tokens": odd, "completion_tokens": 3}]})
    assert found == Tokens(3, 0, 3, requests=1)
