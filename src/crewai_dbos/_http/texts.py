"""What others send, as far as a database can have it."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, StringConstraints

from crewai_dbos._stored.forms import is_storable

DEEPEST = 50
"""How deep lists and objects may lie in each other."""


def storable(text: str) -> str:
    """`text`.

    Raises:
        ValueError: It can't be stored.
    """
    if not is_storable(text):
        raise ValueError("has a character that can't be stored (NUL, or half of a pair)")
    return text


def plain_json(value: Any, depth: int = 0) -> Any:
    """`value`, JSON data.

    Raises:
        ValueError: It can't be stored.
    """
    if depth > DEEPEST:
        raise ValueError(f"lies deeper than {DEEPEST} in lists and objects")
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("is no number that JSON has")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError("is too large a number")
    if isinstance(value, list):
        return [plain_json(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {storable(name): plain_json(item, depth + 1) for name, item in value.items()}
    return value


def sendable(value: Any) -> Any:
    """JSON data with a sign in place of half a surrogate pair, which UTF-8 does not have."""
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, list):
        return [sendable(item) for item in value]
    if isinstance(value, dict):
        return {sendable(name): sendable(item) for name, item in value.items()}
    return value


Text = Annotated[str, StringConstraints(max_length=100_000), AfterValidator(storable)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(storable)]
Json = Annotated[Any, AfterValidator(plain_json)]
