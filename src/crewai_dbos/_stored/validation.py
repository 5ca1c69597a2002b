"""Errors of validation by pydantic: what one is made of, and made of that again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ErrorType

from crewai_dbos._stored.codec import encode
from crewai_dbos.errors import UnstorableValueError

LARGEST = 4_000
"""Characters, about, of all that was validated: beyond, no more of it is kept than the message has,
as a model may have sent it."""

_TYPES = frozenset(get_args(ErrorType))


def pieces(error: ValidationError) -> list[Any]:
    """The title of `error` and its errors, as plain data; nothing of one that has no JSON form.

    The errors have no `input` if the model hides it, if it is too large or has no JSON form.
    """
    found = error.errors(include_url=False)
    kept = not _hides_input(error) and _can_be_kept([each["input"] for each in found])
    made_of = [_told(each, kept) for each in found]
    return [error.title, made_of] if _has_json_form(made_of) else []


def _hides_input(error: ValidationError) -> bool:
    made_of = error.__reduce__()[1]  # as pickle asks: title, errors, kind of input, whether hidden
    return not isinstance(made_of, tuple) or made_of[3:] != (False,)


def _can_be_kept(inputs: Sequence[Any]) -> bool:
    sizes: dict[int, int] = {}  # each missing field has the whole that it is missing in
    room = LARGEST
    for each in inputs:
        if id(each) not in sizes:
            sizes[id(each)] = _size(each, room) if room >= 0 else 0
        room -= sizes[id(each)]
        if room < 0:
            return False
    return all(_has_json_form(each) for each in {id(each): each for each in inputs}.values())


def _size(value: Any, room: int) -> int:
    """About how many characters `value` has as JSON; counted until there are more than `room`."""
    size, left = 0, [value]
    while left and size <= room:
        item = left.pop()
        if isinstance(item, (str, bytes, bytearray)):
            size += len(item)
        elif isinstance(item, int):
            size += item.bit_length() // 3
        elif isinstance(item, (dict, list, tuple, set, frozenset)) and len(item) > room:
            size += len(item)
        elif isinstance(item, dict):
            left.extend((*dict.keys(item), *dict.values(item)))
        elif isinstance(item, (list, tuple, set, frozenset)):
            left.extend(item)
        elif (fields := _fields(item)) is not None:
            left.append(fields)
        size += 2
    return size


def _fields(value: Any) -> Any:
    try:
        return object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None


def _has_json_form(value: Any) -> bool:
    try:
        encode(value)
    except (UnstorableValueError, RuntimeError):  # nested too deep, or changed by another thread
        return False
    return True


def _told(error: Mapping[str, Any], whole: bool) -> dict[str, Any]:
    """What `error` says, with the texts of errors of the user's in it.

    Args:
        whole: Whether also with what was validated; it may be in a context of the user's, too.
    """
    told = dict(error)
    if not whole:
        del told["input"]
        if error["type"] not in _TYPES:
            told.pop("ctx", None)
    if "ctx" in told:
        told["ctx"] = {
            name: str(item) if isinstance(item, Exception) else item
            for name, item in error["ctx"].items()
        }
    return told


def again(title: str, errors: Sequence[Mapping[str, Any]], message: str) -> ValidationError | None:
    """The error that has these pieces and says `message`; None if none does.

    In it something that looks the same stands for an input that is not kept, or has changed.
    """
    for whole in (errors, _showing(errors, message)):
        for kind, hidden in product(("python", "json"), (False, True)):
            error = ValidationError.from_exception_data(
                title,
                [_details(each) for each in whole],
                kind,  # type: ignore[arg-type]
                hide_input=hidden,
            )
            if _without_links(str(error)) == _without_links(message):
                return error
    return None


def _showing(errors: Sequence[Mapping[str, Any]], message: str) -> list[dict[str, Any]]:
    """`errors` with inputs that look as those which `message` shows."""
    shown = _shown(message)
    return [{**each, "input": next(shown, None)} for each in errors]


def _shown(message: str) -> Iterator[Any]:
    """What looks as each of the inputs does that `message` shows."""
    for found in re.finditer(r"\[type=\S+, input_value=(.*), input_type=(.*)\]$", message, re.M):
        yield _looking_like(*found.groups())


def _looking_like(text: str, cls: str) -> Any:
    body = {"__repr__": lambda _: text, "__reduce__": lambda _: (_looking_like, (text, cls))}
    return type(cls, (), body)()


def _details(error: Mapping[str, Any]) -> Any:
    context, kind = dict(error.get("ctx", {})), error["type"]
    if kind not in _TYPES:
        return {
            "type": PydanticCustomError(kind, error["msg"], context or None),
            "loc": error["loc"],
            "input": error.get("input"),
        }
    if kind in ("value_error", "assertion_error"):
        cls = ValueError if kind == "value_error" else AssertionError
        context["error"] = cls(context.get("error", ""))
    details = {"type": kind, "loc": error["loc"], "input": error.get("input")}
    return {**details, "ctx": context} if context else details


def _without_links(text: str) -> list[str]:
    """The lines of `text` but for addresses, which have the version of pydantic in them."""
    return [line for line in text.splitlines() if "errors.pydantic.dev" not in line]
