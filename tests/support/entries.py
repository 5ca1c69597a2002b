"""Which entries of a run a test goes over: one of each kind, or every one.

A test that replays a run from its entries, or kills it there, takes `some` of them, and is marked
``some_entries``. ``make every-moment`` runs these tests with EVERY_MOMENT set: over all entries.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import pytest

from crewai_dbos._stored.names import without_digest

T = TypeVar("T")

EVERY = bool(os.environ.get("EVERY_MOMENT"))

_marked = False


def pytest_runtest_setup(item: pytest.Item) -> None:
    global _marked
    _marked = item.get_closest_marker("some_entries") is not None


def some(items: Iterable[T], name: Callable[[T], str], shown: set[str] | None = None) -> list[T]:
    """Those of one entry of each kind, of the first and the last entry, and of second rounds.

    Of a round, as of a loop or of a task that is done again, it is one entry: that the place is
    counted shows there, and what it does is the same as in the first round. So it is of an LLM's
    second request. Which entry of a kind
    it is depends on names only, as entries that are made side by side come in any order.

    Args:
        items: In the order of their entries, of which each may have several.
        name: What the entry of an item is called in the journal.
        shown: The kinds that other runs of a table have shown, to which those of this one are
            added. Of such a run it is those of kinds that are new, or the entry in its middle if
            none is; here methods of all names are of one kind.
    """
    assert _marked, "make every-moment does not find this test: mark it with some_entries"
    every = list(items)
    if EVERY or not every:
        return every
    entries = sorted({name(item) for item in every}, key=_in_order_of_numbers)
    if shown is None:
        chosen = _of_new_kinds(entries, set(), str) | {name(every[0]), name(every[-1])}
    else:
        middle = entries[len(entries) // 2]
        chosen = _of_new_kinds(entries, shown, _without_names_of_methods) or {middle}
    return [item for item in every if name(item) in chosen]


def _of_new_kinds(
    entries: Iterable[str], seen: set[str], known_as: Callable[[str], str]
) -> set[str]:
    """Those that show what is not among the kinds `seen`, which gets to know it."""
    chosen = set()
    for entry in entries:
        shows = {known_as(each) for each in (kind(entry), *_later_rounds(entry))}
        if not shows <= seen:
            chosen.add(entry)
            seen |= shows
    return chosen


def _without_names_of_methods(kind: str) -> str:
    return re.sub("method:[^/]*", "method", kind)


def how_many(here: int, everywhere: int) -> int:
    """`here` in ``make test``, `everywhere` in ``make every-moment``."""
    assert _marked, "make every-moment does not find this test: mark it with some_entries"
    return everywhere if EVERY else here


def kind(entry: str) -> str:
    """What an entry is, at what kind of place: its name without numbers, digests and who is there.

    ``crew:research#1/task:2.write#1/agent:Writer#1/llm#3`` is a ``crew/task/agent/llm``. Methods,
    tools and steps keep their names, as each is code of its own.
    """
    return "/".join(map(_kind_of, _parts(entry)))


def _parts(entry: str) -> list[str]:
    """The places and the call. In crash tests those of a child workflow come after its id."""
    return re.split("/|: ", entry)


def _kind_of(part: str) -> str:
    what = without_digest(re.sub(r"#\d+$|^-\d+$", "", part))
    return re.sub("^(agent|crew|flow|task|todo):.*", r"\1", what)


def _later_rounds(entry: str) -> Iterator[str]:
    """The kinds of what is there for the second time or later: places of `entry`, and an LLM.

    A second request to an LLM has what came of the first one; a second call of a tool is like it.
    """
    *places, call = _parts(entry)
    counted = [*places, call] if call.startswith("llm#") else places
    for number, part in enumerate(counted, 1):
        if re.search(r"#(?!1$)\d+$", part):
            yield "/".join([*map(_kind_of, counted[:number]), "again"])


def _in_order_of_numbers(entry: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", entry)]
