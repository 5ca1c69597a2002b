"""On which kinds of database a test runs."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import pytest

SQLITE_HERE = ["sqlite", pytest.param("postgres", marks=pytest.mark.every_moment)]
"""Where no SQL differs below a test: SQLite, and Postgres in ``make every-moment``."""


def sqlite_here(fixture: str) -> pytest.MarkDecorator:
    """The mark of a test whose `fixture` by default makes both kinds."""
    return pytest.mark.parametrize(fixture, SQLITE_HERE, indirect=True)


def both_here(fixture: str) -> pytest.MarkDecorator:
    """The mark of a test whose `fixture` by default makes `SQLITE_HERE`, and whose SQL differs."""
    return pytest.mark.parametrize(fixture, ["sqlite", "postgres"], indirect=True)


def some_here(every: Iterable[Any], here: Collection[Any]) -> list[Any]:
    """Parameters, of which all but those `here` are for ``make every-moment``."""
    every = [(each, each if isinstance(each, tuple) else (each,)) for each in every]
    elsewhere = pytest.mark.every_moment
    return [
        pytest.param(*values, marks=() if each in here else elsewhere) for each, values in every
    ]


def in_turns(names: Iterable[str], ways: Sequence[str]) -> list[Any]:
    """Each name with each way: here in one of them in turn, and else in ``make every-moment``."""
    names = list(names)
    here = list(zip(names, itertools.cycle(ways), strict=False))
    return some_here(itertools.product(names, ways), here)
