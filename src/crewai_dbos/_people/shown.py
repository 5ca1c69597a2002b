"""What of a run may be shown to people: no secret, and only what its `redact` lets through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crewai_dbos._journal.scope import Scope
from crewai_dbos._secrets import known
from crewai_dbos._secrets.cutting import cutter


def shown(scope: Scope, data: Any) -> Any:
    """`data`, plain JSON, as it may be shown to whoever may answer.

    Args:
        scope: Of the run.
    """
    journal = scope.journal
    through: list[Callable[[str], str]] = [
        cutter({*known.named(), *journal.secrets}),
        *journal.writer.redact,
    ]

    def text(value: str) -> str:
        for function in through:
            value = function(value)
        return value

    return _texts(data, text)


def _texts(data: Any, function: Callable[[str], str]) -> Any:
    if isinstance(data, str):
        return function(data)
    if isinstance(data, list):
        return [_texts(item, function) for item in data]
    if isinstance(data, dict):
        return {key: _texts(item, function) for key, item in data.items()}
    return data
