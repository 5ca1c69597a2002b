"""Errors of validation by pydantic: what one is made of, and made of that again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ErrorType

from crewai_dbos._stored.codec import encode
from crewai_dbos.errors import UnstorableValueError

LARGEST = 1_000_000
"""Characters of JSON: each of its errors holds what was validated, which a model may have sent."""

_TYPES = frozenset(get_args(ErrorType))


def pieces(error: ValidationError) -> list[Any]:
    """The title of `error` and its errors, as plain data; nothing of one that has no JSON form or
    is too large."""
    found = error.errors(include_url=False)
    made_of = [
        {name: _told(item) if name == "ctx" else item for name, item in each.items()}
        for each in found
    ]
    try:
        too_large = len(json.dumps(encode(made_of))) > LARGEST
    except (UnstorableValueError, RecursionError):
        return []
    return [] if too_large else [error.title, made_of]


def _told(context: Any) -> dict[str, Any]:
    """What was said of an error, with the texts of errors of the user's in it."""
    return {
        name: str(item) if isinstance(item, Exception) else item for name, item in context.items()
    }


def again(title: str, errors: Sequence[Mapping[str, Any]], message: str) -> ValidationError | None:
    """The error that has these pieces and says `message`; None if none does."""
    for kind, hidden in product(("python", "json"), (False, True)):
        error = ValidationError.from_exception_data(
            title,
            [_details(each) for each in errors],
            kind,  # type: ignore[arg-type]
            hide_input=hidden,
        )
        if _without_links(str(error)) == _without_links(message):
            return error
    return None


def _details(error: Mapping[str, Any]) -> Any:
    context, kind = dict(error.get("ctx", {})), error["type"]
    if kind not in _TYPES:
        return {
            "type": PydanticCustomError(kind, error["msg"], context or None),
            "loc": error["loc"],
            "input": error["input"],
        }
    if kind in ("value_error", "assertion_error"):
        cls = ValueError if kind == "value_error" else AssertionError
        context["error"] = cls(context.get("error", ""))
    details = {"type": kind, "loc": error["loc"], "input": error["input"]}
    return {**details, "ctx": context} if context else details


def _without_links(text: str) -> list[str]:
    """The lines of `text` but for addresses, which have the version of pydantic in them."""
    return [line for line in text.splitlines() if "errors.pydantic.dev" not in line]
