"""Secrets are cut out of texts, in every form that they can be found in."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, lru_cache

from crewai_dbos._secrets.credentials import credentials
from crewai_dbos._secrets.forms import INSTEAD, SHORTEST, Needle, View, needles, squeezed, written

SHORTEST_GIVEN = 4
"""Characters; what is shorter is never cut."""

_LEVELS = 3
"""Of escapes: JSON in JSON in a URL."""

# What providers put in the place of the middle of a key.
_MASK = re.compile(r"\*{2,}|[\u2022\u25cf\u00b7]{2,}|\u2026|\.{3,}|[xX]{4,}")
_SHOWN = 3
"""Characters; fewer beside a mask say nothing."""
_MOST_SHOWN = 32

_Spans = Iterator[tuple[int, int]]


def cutter(secrets: Iterable[str]) -> Callable[[str], str]:
    """A function that puts ``***`` in the place of secrets in a text.

    It finds each of `secrets` also where it is escaped, encoded, split or masked, and credentials
    that show themselves: passwords in URLs, keys in query strings, keys of a known shape.

    Args:
        secrets: Texts that must not be shown; those shorter than four characters are passed over.
    """
    return _cutter(frozenset(secrets))


@lru_cache(maxsize=64)
def _cutter(secrets: frozenset[str]) -> Callable[[str], str]:
    return _Cutter([secret for secret in secrets if len(secret) >= SHORTEST_GIVEN]).cut


class _Cutter:
    def __init__(self, secrets: list[str]) -> None:
        pieces = [_needles(secret) for secret in secrets]
        self._needles = {needle for found, _, _ in pieces for needle in found}
        self._written = {needle for _, found, _ in pieces for needle in found}
        self._split = {needle for _, _, found in pieces for needle in found}
        self._secrets = secrets

    def cut(self, text: str) -> str:
        found = list(self._found(text))
        return _without(text, found) if found else text

    def _found(self, text: str) -> _Spans:
        yield from _places(self._written, text)
        view: View | None = View(text)
        assert view is not None
        for apart in view.decoded_apart():
            yield from self._known_in(apart)
        for _ in range(_LEVELS + 1):
            yield from self._known_in(view)
            for span in credentials(view.text):
                yield view.origin(*span)
            for mask in _MASK.finditer(view.text):
                for span in self._masked(view.text, *mask.span()):
                    yield view.origin(*span)
            if (view := view.decoded()) is None:
                return

    def _known_in(self, view: View) -> _Spans:
        for span in _places(self._needles, view.text):
            yield view.origin(*span)
        if (joined := view.squeezed()) is not None:
            for span in _places(self._split, joined.text):
                yield joined.origin(*span)

    # Masked ----------------------------------------------------------------------

    def _masked(self, text: str, start: int, end: int) -> _Spans:
        """The key that is shown with a mask from `start` to `end`, if it is one."""
        heads = self._heads.get(text[max(0, start - _SHOWN) : start], ())
        tails = self._tails.get(text[end : end + _SHOWN], ())
        head = max((len(h) for h in heads if text.endswith(h, 0, start)), default=0)
        tail = max((len(t) for t in tails if text.startswith(t, end)), default=0)
        # Dots stand in any text.
        if (head and tail) or (text[start] in "*\u2022\u25cf" and (head or tail > _SHOWN)):
            yield start - head, end + tail

    @cached_property
    def _heads(self) -> dict[str, set[str]]:
        """Beginnings of secrets, by their last characters."""
        found: dict[str, set[str]] = defaultdict(set)
        for secret in self._maskable():
            for shown in range(_SHOWN, min(len(secret), _MOST_SHOWN)):
                found[secret[shown - _SHOWN : shown]].add(secret[:shown])
        return found

    @cached_property
    def _tails(self) -> dict[str, set[str]]:
        """Ends of secrets, by their first characters."""
        found: dict[str, set[str]] = defaultdict(set)
        for secret in self._maskable():
            for shown in range(_SHOWN, min(len(secret), _MOST_SHOWN)):
                found[secret[-shown:][:_SHOWN]].add(secret[-shown:])
        return found

    def _maskable(self) -> list[str]:
        return [secret for secret in self._secrets if len(secret) >= SHORTEST]


@lru_cache(maxsize=8192)
def _needles(secret: str) -> tuple[list[Needle], list[Needle], list[Needle]]:
    """What to look for in any view of a text, in the text itself, and where it is squeezed."""
    found = list(needles(secret))
    split = [needle._replace(text=squeezed(needle.text)) for needle in found]
    literal = [Needle(form) for form in written(secret)]
    return found, literal, [needle for needle in split if len(needle.text) >= SHORTEST]


def _places(needles: Iterable[Needle], text: str) -> _Spans:
    for needle in needles:
        if needle.text in text:
            yield from needle.found_in(text)


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    pieces: list[str] = []
    done = 0
    for start, end in sorted(spans):
        if start > done or not pieces:
            pieces += [text[done:start], INSTEAD]
        done = max(done, end)
    return "".join([*pieces, text[done:]])
