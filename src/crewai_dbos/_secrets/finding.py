"""Where secrets are: in LLMs, tools, embedders, MCP servers and whatever else a definition holds.

What is met is judged by what it is called and by what it looks like; see `words` and `texts`.
"""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Iterator
from types import FunctionType, MappingProxyType, MethodType
from typing import Any, NamedTuple

from crewai_dbos._crewai_seam import agent, flow
from crewai_dbos._dbos_seam.configuration import whole_configuration
from crewai_dbos._secrets import inside, texts
from crewai_dbos._secrets.forms import SHORTEST
from crewai_dbos._secrets.given import Given, revealed
from crewai_dbos._secrets.words import is_said, names_a_secret

MOST = 20_000
"""Objects that are looked at for one definition, those first that lie nearest."""


class Found(NamedTuple):
    """A secret.

    Attributes:
        name: Where it is, in words.
        text: The secret itself.
    """

    name: str
    text: str


def of_environment() -> Iterator[Found]:
    """The secrets among the environment variables."""
    for name, text in os.environ.items():
        for secret in texts.called(name, text):
            yield Found(name, secret)
        if (data := texts.parsed(text)) is not None:
            yield from (Found(f"{name}[{found.name!r}]", found.text) for found in secrets_in(data))


def of_dbos() -> Iterator[Found]:
    """The secrets that the DBOS instance of this process was configured with, if there is one."""
    for found in secrets_in(whole_configuration()):
        yield Found(f"{found.name} of the DBOS config", found.text)


def secrets_in(what: Any, seen: dict[int, Any] | None = None) -> Iterator[Found]:
    """The secrets in `what`, a definition or any part of one.

    Args:
        seen: Models that were looked at before, by their ids; those met here are added.
    """
    search = _Search({} if seen is None else seen)
    search.add(_Place(what))
    return search.found()


class _Place(NamedTuple):
    """Something that was met in a search.

    Attributes:
        value: The object.
        name: The field, key or variable that holds it.
        owner: The object that it is in, in words.
        secret: Whether it is in a container that is called like a secret.
        headers: ``headers`` or ``cookies`` if it is in a mapping of these.
    """

    value: Any
    name: str = ""
    owner: str = ""
    secret: bool = False
    headers: str = ""

    def __str__(self) -> str:
        return f"{self.name} of {self.owner}" if self.owner else self.name


_SCALARS = (type(None), bool, int, float, complex)
# What a run works on, and what knowledge consists of: no part of how something was defined.
_OF_RUNS = ("agent_executor", "initial_state", "tools_results", flow.STATE)
_DATA = frozenset({*_OF_RUNS, agent.LAST_MESSAGES, "chunks", "chunk_embeddings"})


class _Search:
    """A search through an object and what it holds, nearest first."""

    def __init__(self, seen: dict[int, Any]) -> None:
        self._seen = seen
        # Kept, so that their ids stay theirs.
        self._met: dict[int, Any] = {}
        self._waiting: deque[_Place] = deque()

    def add(self, place: _Place) -> None:
        value = place.value
        if isinstance(value, _SCALARS) or (type(value) is str and len(value) < SHORTEST):
            return
        self._waiting.append(place)

    def found(self) -> Iterator[Found]:
        looked = 0
        while self._waiting and looked < MOST:
            looked += 1
            place = self._waiting.popleft()
            try:
                yield from self._look(place)
            except Exception:  # of a proxy, or an object that is not as its class says
                continue

    def _look(self, place: _Place) -> Iterator[Found]:
        value = place.value
        if isinstance(value, Given):
            yield from (Found(f"secrets[{number}]", text) for number, text in enumerate(value))
        elif isinstance(value, (str, bytes, bytearray)):
            yield from self._look_at_text(place, _as_text(value))
        elif (text := revealed(value)) is not value:
            yield from (Found(str(place), secret) for secret in texts.of_a_secret(_as_text(text)))
        elif id(value) not in self._met and id(value) not in self._seen:
            self._met[id(value)] = value
            for met in self._inside(place):
                self.add(met)

    def _look_at_text(self, place: _Place, text: str) -> Iterator[Found]:
        if place.headers == "cookies" or (place.secret and not is_said(place.name)):
            found = texts.of_a_secret(text)
        elif place.headers:
            found = texts.in_header(place.name, text)
        else:
            found = texts.called(place.name, text)
        for secret in found:
            yield Found(str(place), secret)
        if (data := texts.parsed(text)) is not None:
            self.add(place._replace(value=data))

    def _inside(self, place: _Place) -> Iterator[_Place]:
        value = place.value
        if isinstance(value, (dict, MappingProxyType)) or inside.is_headers(value):
            yield from _in_mapping(place)
        elif isinstance(value, tuple) and hasattr(value, "_fields"):
            owner, names = type(value).__name__, value._fields
            yield from (_Place(v, name, owner) for name, v in zip(names, value, strict=False))
        elif isinstance(value, (list, tuple, set, frozenset, deque)):
            yield from _in_sequence(place)
        elif isinstance(value, functools.partial):
            yield from (place._replace(value=v) for v in (value.func, value.args, value.keywords))
        elif isinstance(value, MethodType):
            yield from (place._replace(value=v) for v in (value.__func__, value.__self__))
        elif isinstance(value, FunctionType):
            yield from (_Place(v, n, owner) for n, v, owner in inside.of_function(value))
        elif isinstance(value, type):
            yield from (_Place(v, n, owner) for n, v, owner in inside.of_class(value))
        elif inside.is_url(value):
            yield place._replace(value=str(value))
        else:
            if hasattr(type(value), "__pydantic_fields__"):
                self._seen[id(value)] = value
            for name, held, owner in inside.of_object(value):
                if name not in _DATA:
                    # A cookie has its secret in a field that is called like any other.
                    yield _Place(held, name, owner, place.secret and name == "value")


def _in_mapping(place: _Place) -> Iterator[_Place]:
    headers = next((kind for kind in ("headers", "cookies") if _ends(place.name, kind)), "")
    secret = place.secret or names_a_secret(place.name)
    for key, value in list(place.value.items())[:MOST]:
        name = _as_text(key) if isinstance(key, (str, bytes)) else type(key).__name__
        yield _Place(value, name, place.owner, secret, headers)


def _in_sequence(place: _Place) -> Iterator[_Place]:
    secret = place.secret or names_a_secret(place.name)
    before = ""
    for item in list(place.value)[:MOST]:
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], (str, bytes)):
            # Headers as pairs.
            yield _Place({_as_text(item[0]): item[1]}, place.name, place.owner, secret)
        elif isinstance(item, str) and before.startswith("-") and names_a_secret(before):
            yield _Place(item, before, place.owner)
        elif isinstance(item, str) and (option := texts.option(item)) is not None:
            # `--token=X`, and `TOKEN=X` or `Token: X` after another one.
            yield _Place(option[1], option[0], place.owner)
        yield place._replace(value=item, secret=secret)
        before = item if isinstance(item, str) else ""


def _ends(name: str, kind: str) -> bool:
    return name.lower().endswith(kind)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else bytes(value).decode("utf-8", "replace")
