"""What of a run may be shown to people: no secret, and only what its `redact` lets through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crewai_dbos._journal.scope import Scope
from crewai_dbos._secrets import known
from crewai_dbos._secrets.cutting import cutter
from crewai_dbos._stored.redaction import redacted_text


def shown(scope: Scope, data: Any) -> Any:
    """`data`, plain JSON, as it may be shown to whoever may answer.

    Args:
        scope: Of the run.
    """
    journal = scope.journal
    cut = cutter({*known.named(), *journal.secrets})

    def text(value: str) -> str:
        value = cut(value)
        for function in journal.writer.redact:
            value = redacted_text(value, function)
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
