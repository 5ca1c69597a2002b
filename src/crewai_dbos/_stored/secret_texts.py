"""Texts that must not be stored: servers like to repeat a key in the error that refuses it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

_NAME = re.compile(
    r"(?:(?:^|[_-])(?:key|credentials?|authorization)|apikey|token|secret|password|passwd)$",
    re.IGNORECASE,
)
_PASSWORD = re.compile(r"://[^/@:\s]*:([^/@\s]{4,})@")
"""In the URL of a database, say."""

_SHORTEST = 8
"""Characters; a shorter one would be found in texts by chance."""


def of_environment() -> Iterator[str]:
    """Values of environment variables that are called like a secret."""
    yield from _named(os.environ)
    for value in os.environ.values():
        if found := _PASSWORD.search(value):
            yield found[1]


def of_llm(llm: Any) -> Iterator[str]:
    """Keys and authorization headers that an LLM sends."""
    yield from _named(vars(llm))
    for value in vars(llm).values():
        if isinstance(value, Mapping):
            yield from _named(value)


def _named(values: Mapping[Any, Any]) -> Iterator[str]:
    for name, value in values.items():
        reveal = getattr(value, "get_secret_value", None)
        text = reveal() if callable(reveal) else value
        if isinstance(name, str) and isinstance(text, str) and _NAME.search(name):
            yield from _parts(text)


def _parts(text: str) -> Iterator[str]:
    """The whole, and what follows a scheme as in ``Bearer ...``."""
    for part in (text, text.rpartition(" ")[2]):
        if len(part) >= _SHORTEST:
            yield part
