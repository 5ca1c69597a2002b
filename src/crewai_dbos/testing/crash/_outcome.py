"""How a run ended, field by field, and where two runs differ."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

USAGE = ("token_usage", "usage_metrics")
"""Fields of crewAI's outputs that count tokens."""

_UUID = r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}"
_TIME = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d[\d:.]*(?:Z|[+-]\d\d:\d\d)?"
_OWN = re.compile(f"{_UUID}|{_TIME}")
"""What each run has of its own in its state."""

_FAILURE = "crewai.tools.tool_failure:ToolFailureRecord"
"""What outputs tell of a failed tool: with the id of its task, new in a crew that is built anew."""

_WIDTH = 160
"""Characters of a value that are shown."""


@dataclass(frozen=True)
class Difference:
    """A field in which two runs ended otherwise.

    Attributes:
        field: ``result``, ``result.token_usage``, ``state.<field>`` of a flow, or ``left_behind``.
        found: What it is in the one run, shortened, as JSON.
        usual: And in the other.
    """

    field: str
    found: str
    usual: str

    def __str__(self) -> str:
        return f"{self.field} is {self.found}, undisturbed {self.usual}"


def differences(
    ended: Mapping[str, Any], usual: Mapping[str, Any], ignore: Collection[str] = ()
) -> Iterator[Difference]:
    """Where a run that ended as `ended` says did so otherwise than `usual`.

    Args:
        ended: What the last process of the run said.
        usual: The same of an undisturbed run.
        ignore: Fields that are not compared.
    """
    one, other = _fields(ended), _fields(usual)
    if "state" not in ended or "state" not in usual:  # known only where its last method ended
        ignore = {*ignore, *(name for name in (*one, *other) if name.startswith("state."))}
    for name in dict.fromkeys((*one, *other)):
        if name in ignore:
            continue
        values = [json.dumps(fields.get(name), sort_keys=True) for fields in (one, other)]
        own = _OWN if name.startswith("state.") else re.compile("(?!)")
        if own.sub("*", values[0]) != own.sub("*", values[1]):
            yield Difference(name, *_shortened(*values))


def _fields(ended: Mapping[str, Any]) -> dict[str, Any]:
    result = ended.get("answer", ended.get("error"))
    fields: dict[str, Any] = {}
    if isinstance(result, dict) and (counted := [name for name in USAGE if name in result]):
        fields.update({f"result.{name}": result[name] for name in counted})
        result = {name: value for name, value in result.items() if name not in counted}
    return {
        "result": _without_ids(result),
        **fields,
        **{f"state.{name}": value for name, value in (ended.get("state") or {}).items()},
        "left_behind": ended.get("left behind"),
    }


def _without_ids(value: Any) -> Any:
    """`value` less the ids of tasks in what crewAI tells of failed tools."""
    if isinstance(value, list):
        return [_without_ids(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("$model") == _FAILURE and isinstance(value.get("fields"), dict):
        value = {**value, "fields": {**value["fields"], "task_id": None}}
    return {name: _without_ids(item) for name, item in value.items()}


def _shortened(one: str, other: str) -> tuple[str, str]:
    """Both texts from a little before they differ, if they are long."""
    pairs = enumerate(zip(one, other, strict=False))
    at = next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))
    start = max(0, at - _WIDTH // 4)

    def cut(text: str) -> str:
        if len(text) <= _WIDTH:
            return text
        begin = min(start, len(text) - _WIDTH)
        end = begin + _WIDTH
        return f"{'…' * (begin > 0)}{text[begin:end]}{'…' * (end < len(text))}"

    return cut(one), cut(other)
