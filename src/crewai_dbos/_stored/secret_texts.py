"""Texts that must not be stored: servers like to repeat a key in the error that refuses it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

_NAME = re.compile(
    r"(?:(?:^|[_-])(?:key|credentials?|authorization)|apikey|token|secret|password|passwd)$",
    re.IGNORECASE,
)
_PASSWORD = re.compile(r"://[^/@:\s]*:([^/@\s]{4,})@")
"""In the URL of a database, say."""

_SHORTEST = 8
"""Characters; a shorter one would be found in texts by chance."""


def of_environment() -> Iterator[str]:
    """Values of environment variables that are called like a secret, and passwords in URLs."""
    return (secret for _, secret in named_in_environment())


def named_in_environment() -> Iterator[tuple[str, str]]:
    """The same, each after the name of its variable."""
    for name, value in os.environ.items():
        for secret in _named({name: value}):
            yield name, secret
        if found := _PASSWORD.search(value):
            yield name, found[1]


def of_llm(llm: Any) -> Iterator[str]:
    """Keys and authorization headers that an LLM sends."""
    yield from _named(vars(llm))
    for value in vars(llm).values():
        if isinstance(value, Mapping):
            yield from _named(value)


def found_in(parts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Parts with the value of an environment variable in their texts, each with its name."""
    texts = {part: list(texts_in(value)) for part, value in parts.items()}
    for name, secret in named_in_environment():
        for part, found in texts.items():
            if any(secret in text for text in found):
                yield part, name


def texts_in(value: Any) -> Iterator[str]:
    """The texts in containers and models."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, BaseModel):
        yield from texts_in(value.__dict__)
    elif isinstance(value, (dict, list, tuple, set)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts_in(item)


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
