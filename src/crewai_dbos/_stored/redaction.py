"""What a user's ``redact`` function makes of what is about to be stored."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, cast

from crewai_dbos._stored import codec
from crewai_dbos._stored.forms import Json
from crewai_dbos.errors import DefinitionError, UnstorableValueError

Redact = Callable[[str], str]
"""Is given a text that is about to be stored; returns what is stored in its place."""

_WHOLE = ("$tuple", "$set", "$frozenset", "$path")
_PARTS = ("value", "fields", "extra", "private", "args", "items", "pairs", "state")
_OF_NAMES = ("$enum", "$class")
_BYTES = "latin-1"
"""The second argument of a bytearray, whose first one is no text."""


def as_redact(redact: Any) -> Redact | None:
    """What a user passed as ``redact=``.

    Raises:
        DefinitionError: It is no function, or an async one.
    """
    if redact is not None and (not callable(redact) or inspect.iscoroutinefunction(redact)):
        raise DefinitionError("redact is a function that is given a text and returns one")
    return cast("Redact | None", redact)


def redacted_text(text: str, redact: Redact) -> str:
    """`text`, put through `redact`.

    Raises:
        UnstorableValueError: `redact` returned something else than a text.
        Exception: What `redact` raises.
    """
    found = redact(text)
    if not isinstance(found, str):
        raise UnstorableValueError(
            f"redact must return a text, and returned {type(found).__name__}. Nothing is stored."
        )
    return found


def shown(text: str, redact: Iterable[Redact]) -> str:
    """`text`, put through each of `redact`; only that it can't be shown if one of them fails."""
    try:
        for function in redact:
            text = redacted_text(text, function)
    except Exception as error:  # of the user's function
        return f"(It can't be shown: redact has failed with {type(error).__name__}.)"
    return text


def redacted(data: Json, redact: Redact) -> Json:
    """`data`, plain JSON as `codec` writes it, with every text in it put through `redact`.

    Keys of dicts, names of fields and classes, and what is no text (a number, a date, bytes) stay.

    Raises:
        UnstorableValueError: `redact` returned something else than a text.
        Exception: What `redact` raises.
    """
    if isinstance(data, str):
        return redacted_text(data, redact)
    if isinstance(data, list):
        return [redacted(item, redact) for item in data]
    if not isinstance(data, dict):
        return data
    tag = next(iter(data), "")
    if not tag.startswith("$"):
        return {key: redacted(item, redact) for key, item in data.items()}
    if tag == "$str":
        return codec.encode(redacted(codec.decode(data), redact))
    if tag == "$map":
        return {tag: [[key, redacted(item, redact)] for key, item in data[tag]]}
    if tag in _OF_NAMES or data.get("args", ())[1:] == [_BYTES]:
        return data
    inside = _WHOLE if tag in _WHOLE else _PARTS
    return {key: redacted(item, redact) if key in inside else item for key, item in data.items()}


def redacted_error(error: dict[str, Any], redact: Redact) -> dict[str, Any]:
    """The same for what `encode_error` has made."""
    made = {
        **error,
        **{name: redacted(error[name], redact) for name in ("message", "args", "attrs")},
    }
    if "builtins:ExceptionGroup" in (error["type"], *error["bases"]):
        made["args"] = [
            redacted_error(arg, redact) if isinstance(arg, dict) and "bases" in arg else made_arg
            for arg, made_arg in zip(error["args"], made["args"], strict=True)
        ]
    if "notes" in error:
        made["notes"] = redacted(error["notes"], redact)
    if "raised" in error:
        made["raised"] = redacted(error["raised"], redact)
    if "cause" in error:
        made["cause"] = redacted_error(error["cause"], redact)
    return made
