"""Another result in place of a recorded one: it has the form of what it replaces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from crewai_dbos._stored import codec
from crewai_dbos.errors import ForkError, UnstorableValueError

_OBJECTS = ("$model", "$dataclass")

EDITABLE = ("llm", "tool", "step", "method", "person")
"""The kinds of entries whose result somebody can give."""


def edited(name: str, kind: str, content: Mapping[str, Any], value: Any, by: str) -> dict[str, Any]:
    """`content`, what an entry holds, with `value` as its result.

    Raises:
        ForkError: It does not fit.
    """
    held = content.get("result")
    if kind == "method":
        returned = held.get("returned") if isinstance(held, Mapping) else None
        result: Any = {"returned": _fitting(name, returned, value)}
    elif kind == "llm":
        result = _answer(name, held, value)
    elif kind == "person" and isinstance(held, Mapping) and "entry" in held:
        result = _decision(name, held, value, by)
    else:
        result = _fitting(name, held, value)
    kept = {field: item for field, item in content.items() if field not in ("error", "result")}
    return {**kept, "result": result}


def as_text(name: str, value: Any) -> str:
    """The output of a task: a text, or JSON of a model.

    Raises:
        ForkError: It is neither.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (dict, list)):
        return json.dumps(_plain(name, value), ensure_ascii=False)
    raise ForkError(
        f"The output of {name} is a text, or JSON of the model that it has, and not "
        f"{_called(value)}."
    )


def _answer(name: str, held: Any, value: Any) -> Any:
    """What an LLM says: a text, also where it had called tools, or fields of its model."""
    if isinstance(held, Mapping):
        return _fitting(name, held, value)
    if isinstance(value, str):
        return _plain(name, value)
    raise ForkError(f"{name} is an answer of an LLM: give a text, not {_called(value)}.")


def _decision(name: str, held: Mapping[str, Any], value: Any, by: str) -> Any:
    if not isinstance(value, Mapping) or value.get("is") not in ("approve", "reject"):
        raise ForkError(
            f'{name} is what a person has decided: {{"is": "approve"}}, with "arguments" that are '
            'to be others, or {"is": "reject", "reason": "..."}.'
        )
    return {**_plain(name, dict(value)), "by": by, "entry": held["entry"]}


def _fitting(name: str, held: Any, value: Any) -> Any:
    """`value` in the form of `held`: the same type of JSON, or fields of the same object."""
    form = next((tag for tag in _OBJECTS if isinstance(held, Mapping) and tag in held), None)
    if form is not None:
        return _with_fields(name, held, value, held[form])
    if isinstance(held, Mapping) and any(str(key).startswith("$") for key in held):
        raise ForkError(
            f"{name} holds a value without a form in JSON ({next(iter(held))}), which can't be "
            "given from outside. Fork it from there, and it is made again."
        )
    plain = _plain(name, value)
    if held is not None and _called(held) != _called(value):
        raise ForkError(f"{name} holds {_called(held)}, and {_called(value)} was given.")
    return plain


def _with_fields(name: str, held: Mapping[str, Any], value: Any, path: str) -> Any:
    fields = held.get("fields")
    if not isinstance(fields, Mapping) or not isinstance(value, Mapping):
        raise ForkError(f"{name} holds a {path}: give the fields that are to be others, as JSON.")
    if unknown := sorted(map(str, value.keys() - fields.keys())):
        raise ForkError(f"{name} holds a {path}, which has no {', '.join(unknown)}.")
    changed = {
        field: _fitting(f"{field} of {name}", fields[field], value[field]) for field in value
    }
    given = {"set": sorted({*held.get("set", ()), *changed})} if "$model" in held else {}
    return {**held, "fields": {**fields, **changed}, **given}


def _plain(name: str, value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
        return codec.encode(value)
    except (UnstorableValueError, TypeError, ValueError, RecursionError) as error:
        raise ForkError(f"What was given for {name} is not JSON: {error}") from None


def _called(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "an object" if isinstance(value, Mapping) else "a list"
