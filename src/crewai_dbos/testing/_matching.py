"""Whether a request is one that was recorded, and what differs if not."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

Json = dict[str, Any]

# What no two runs have in common.
_CHANGING = (
    r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b",  # a UUID
    r"\b0x[0-9a-f]{6,}\b",  # the address of an object
    r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?",  # a time
    r"(?<=\nCurrent Date: )[^\n]+",  # crewAI's inject_date
)
_BEFORE, _AFTER = 60, 120  # characters shown around a difference
_SETTINGS = ("tool_choice", "response_format")


def pattern(ignore: Sequence[str]) -> re.Pattern[str]:
    """What to leave out of a comparison."""
    return re.compile("|".join(f"(?:{part})" for part in (*_CHANGING, *ignore)))


def comparable(identity: Json, changing: re.Pattern[str]) -> Json:
    """What decides the reply, without what changes from run to run.

    Ids of tool calls are replaced by their place in the conversation: crewAI makes some of them
    from the address of an object.
    """
    places: dict[str, str] = {}
    for message in identity.get("messages") or []:
        for call in message.get("tool_calls") or []:
            places.setdefault(str(call.get("id")), f"call {len(places) + 1}")

    def without(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: without(inner, key) for key, inner in value.items()}
        if isinstance(value, list):
            return [without(inner) for inner in value]
        if not isinstance(value, str):
            return value
        if name in ("id", "tool_call_id") and value in places:
            return places[value]
        return changing.sub("*", value)

    return {name: without(value) for name, value in identity.items() if value is not None}


def nearest(asked: Json, recorded: Sequence[Json]) -> int:
    """The position of the recorded request that is most like the one asked."""
    return max(range(len(recorded)), key=lambda at: _likeness(recorded[at], asked))


def difference(recorded: Json, asked: Json) -> str:
    """What of `asked` is not as recorded, in a few lines."""
    return "\n".join(_differences(recorded, asked))


def _likeness(recorded: Json, asked: Json) -> tuple[float, ...]:
    ours, theirs = _messages(recorded), _messages(asked)
    same = _equal_at_start(ours, theirs)
    if same < min(len(ours), len(theirs)):
        texts = (_written(ours[same]), _written(theirs[same]))
        likeness = difflib.SequenceMatcher(None, *texts, autojunk=False).quick_ratio()
    else:
        likeness = float(len(ours) == len(theirs))
    settings = sum(recorded.get(name) == asked.get(name) for name in ("model", "tools", *_SETTINGS))
    return (same, likeness, len(ours) == len(theirs), settings)


def _differences(recorded: Json, asked: Json) -> Iterator[str]:
    if recorded.get("model") != asked.get("model"):
        yield f"The model: {recorded.get('model')} is recorded, {asked.get('model')} was asked."
    ours, theirs = (
        {str((tool.get("function") or {}).get("name")): tool for tool in each.get("tools") or []}
        for each in (recorded, asked)
    )
    if list(ours) != list(theirs):
        lists = [", ".join(each) or "none" for each in (ours, theirs)]
        yield f"The tools: {lists[0]} are recorded, {lists[1]} were offered."
    for name in (name for name in ours if name in theirs):
        if ours[name] != theirs[name]:
            yield f"The tool {name}:\n{_diff(ours[name], theirs[name])}"
    for name in _SETTINGS:
        if recorded.get(name) != asked.get(name):
            yield f"The {name}:\n{_diff(recorded.get(name), asked.get(name))}"
    ours_said, theirs_said = _messages(recorded), _messages(asked)
    at = _equal_at_start(ours_said, theirs_said)
    if ours_said != theirs_said:
        first = [each[at] if at < len(each) else None for each in (ours_said, theirs_said)]
        role = (first[1] or first[0] or {}).get("role")
        yield f"Message {at + 1} ({role}):\n{_diff(*first)}"


def _messages(identity: Json) -> list[Json]:
    return list(identity.get("messages") or [])


def _equal_at_start(ours: Sequence[Any], theirs: Sequence[Any]) -> int:
    pairs = zip(ours, theirs, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


def _diff(recorded: Any, asked: Any) -> str:
    ours, theirs = _written(recorded), _written(asked)
    first = _equal_at_start(ours, theirs)
    return f"  - {_around(first, ours)}\n  + {_around(first, theirs)}"


def _around(place: int, text: str) -> str:
    if not text:
        return "nothing"
    begin, end = max(0, place - _BEFORE), place + _AFTER
    cut = ("..." if begin else "") + text[begin:end] + ("..." if end < len(text) else "")
    return cut.replace("\n", "\\n")


def _written(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, dict):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "\n".join(
        f"{name}: {inner if isinstance(inner, str) else json.dumps(inner, ensure_ascii=False)}"
        for name, inner in value.items()
    )
