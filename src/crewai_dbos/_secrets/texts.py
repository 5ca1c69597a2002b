"""The secrets in one text, by what it is called and by what it looks like."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from crewai_dbos._secrets.credentials import after_scheme, credentials
from crewai_dbos._secrets.forms import INSTEAD, SHORTEST
from crewai_dbos._secrets.words import is_harmless_header, is_key, is_ordinary, names_a_secret

LONGEST = 65_536
"""Characters; a longer text is no secret."""

_DOCUMENT = 4096
"""Characters; in a longer text that is not called like a secret none is looked for."""

_PAIR = re.compile(r"([A-Za-z][\w .-]{0,63}?)\s*=\s*([^;\s]+)")
_PATH = re.compile(r"https?://[^/\s]+(/\S+)")
_ATTRIBUTES = frozenset({"path", "expires", "domain", "max-age", "samesite"})
_OPTION = re.compile(r"(-{0,2}[A-Za-z][\w.-]{0,63})\s*[=:]\s*(\S.*)", re.DOTALL)


def called(name: str, text: str) -> Iterator[str]:
    """The secrets in `text`, which a variable, a field or an option called `name` holds."""
    if not SHORTEST <= len(text) <= LONGEST:
        return
    if name in ("PWD", "OLDPWD") and os.path.isabs(text):
        return
    if names_a_secret(name) or (is_key(name) and _looks_made(text)):
        yield from of_a_secret(text)
        if "cookie" in name.lower():
            yield from _of_cookies(text)
    elif len(text) <= _DOCUMENT:
        yield from shown_by(text)


def in_header(name: str, text: str) -> Iterator[str]:
    """The secrets in `text`, which a header called `name` says."""
    if not is_harmless_header(name):
        yield from of_a_secret(text)
        if "cookie" in name.lower():
            yield from _of_cookies(text)


def of_a_secret(text: str) -> Iterator[str]:
    """A text that is a secret as a whole, and what of it is one by itself."""
    text = text.strip()
    if _may_be_known(text):
        yield text
        # What is sent to a webhook is refused with the path alone.
        if (path := _PATH.fullmatch(text)) and len(path[1]) >= 2 * SHORTEST:
            yield path[1]
    if (sent := after_scheme(text)) is not None and _may_be_known(sent):
        yield sent
        yield from _of_basic(sent)
    for found in _PAIR.finditer(text):
        if names_a_secret(found[1]) and _may_be_known(found[2]):
            yield found[2]
    user, colon, password = text.partition(":")
    if colon and not re.search(r"[\s/=:]", user + password) and _may_be_known(password):
        yield password
    yield from shown_by(text)


def shown_by(text: str) -> Iterator[str]:
    """The secrets in a text of any name that can be told by their place in it."""
    for start, end in credentials(text):
        found = text[start:end].strip("\"'")
        if INSTEAD in found:
            continue  # a key that is masked already
        for secret in (found, unquote(found)):
            if _may_be_known(secret):
                yield secret
    if (sent := after_scheme(text)) is not None and _looks_made(sent):
        yield sent
        yield from _of_basic(sent)


def texts_in(value: Any) -> Iterator[str]:
    """The texts in containers and models."""
    if isinstance(value, str):
        yield value
    elif hasattr(type(value), "__pydantic_fields__"):
        yield from texts_in(value.__dict__)
    elif isinstance(value, (dict, list, tuple, set)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts_in(item)


def option(text: str) -> tuple[str, str] | None:
    """Name and value of ``--name=value``, ``NAME=value`` or ``Name: value``; None if it is none."""
    found = _OPTION.fullmatch(text)
    return (found[1], found[2]) if found else None


def parsed(text: str) -> Any:
    """The containers that `text` is the JSON of; None if it is something else."""
    if text.lstrip()[:1] in ("{", "[") and len(text) <= LONGEST:
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(text)
    return None


def _of_cookies(text: str) -> Iterator[str]:
    for found in _PAIR.finditer(text):
        if found[1].lower() not in _ATTRIBUTES and _may_be_known(found[2]):
            yield found[2]


def _of_basic(sent: str) -> Iterator[str]:
    """The password of basic authentication."""
    with contextlib.suppress(binascii.Error, ValueError):
        _, _, password = base64.b64decode(sent, validate=True).decode().partition(":")
        if _may_be_known(password):
            yield password


def _may_be_known(text: str) -> bool:
    return (
        SHORTEST <= len(text) <= LONGEST
        and not is_ordinary(text)
        and not (os.path.isabs(text) and os.path.exists(text))
    )


def _looks_made(text: str) -> bool:
    """Whether `text` looks as if a machine had made it up."""
    return (
        len(text) >= 2 * SHORTEST
        and not re.search(r"\s", text)
        and re.search(r"\d", text) is not None
        and re.search(r"[A-Za-z]", text) is not None
    )
