"""Names say where a call happened: different for different calls, the same in every process."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AnyUrl, BaseModel

from crewai_dbos._dbos_seam.rows import RecordedRow
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.entry import read_entry
from crewai_dbos._stored import names
from crewai_dbos._stored.digest import digest, short
from support.entries import EVERY

EXAMPLES = 100 if EVERY else 30


class Size(Enum):
    S = 1
    L = 2


@dataclass
class Item:
    name: str


class Tagged(BaseModel):
    tags: set[str]


class Order(BaseModel):
    item: str
    when: date | None = None


class Live(BaseModel):
    """Has no JSON form."""

    connection: Any


texts = st.text(st.characters(categories=["L", "N", "P", "S", "Z", "Cc", "Cs"]), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda items: st.lists(items, max_size=3) | st.dictionaries(texts, items, max_size=3),
    max_leaves=6,
)


def old(what: str) -> str:
    """As in a run that a release before entries of version 2 began."""
    return names.stored_name(what, 1)


def new(what: str) -> str:
    return names.stored_name(what, names.ENTRY_VERSION)


ASKED = Call("ask", kind="llm", request={"messages": "Hello."})
ASKED_BEFORE = short({"messages": short("Hello.")})


def _before(shape: Any) -> str:
    return hashlib.sha256(json.dumps(shape).encode()).hexdigest()[:8]


# As version 1 had them: of an object's text without what may be an address; of bytes their hash.
OLD_ADDRESS = _before({"to": ["PosixPath", "/w/0x"]})
OLD_BYTES = _before({"to": hashlib.sha256(b"x").hexdigest()})


# What is stored in users' databases -------------------------------------------------


@pytest.mark.parametrize(
    ("made", "stored"),
    [
        (names.agent("Night clerk/50%#1"), "agent:Night clerk%2F50%25%231"),
        (old(names.tool("book", {"to": "Oslo", "seats": [1, 2.5, None]})), "tool:book(3513d17f)"),
        (old(names.tool("book", {"seats": [1, 2.5, None], "to": "Oslo"})), "tool:book(3513d17f)"),
        (old(names.tool("book", {})), "tool:book(44136fa3)"),
        (new(names.tool("book", {})), "tool:book(44136fa355b3678a1146ad16f7e8649e)"),
        (names.around("tool:book(44136fa3)"), "around:tool:book(44136fa3)"),
        (old(names.tool("pay", {"to": Path("/w/0x1")})), f"tool:pay({OLD_ADDRESS})"),
        (old(names.tool("pay", {"to": b"x"})), f"tool:pay({OLD_BYTES})"),
        (names.todo(2), "todo:2"),
        (names.event("ToolUsageStartedEvent"), "event:ToolUsageStartedEvent"),
        (old(names.event("Started", ["book", {}])), "event:Started(bc8e02c7)"),
        (
            new(names.event("Started", ["book", {}])),
            "event:Started(bc8e02c7a72501167ec2dd8361cb5826)",
        ),
        (old(ASKED.named_by_content()), f"ask({ASKED_BEFORE})"),
        (
            new(names.around(names.tool("book", {}))),
            "around:tool:book(44136fa355b3678a1146ad16f7e8649e)",
        ),
        (names.handler("on.<locals>.tell"), "handler:on.<locals>.tell"),
        (names.numbered("", "llm", 1), "llm#1"),
        (names.numbered("agent:clerk#1", "llm", 12), "agent:clerk#1/llm#12"),
        (short("\ud83d ä\x00"), "b14cbe6e"),
        (short(date(2026, 1, 2)), "9d120f14"),
        (short(Size.S), "78f0408c"),
        (short(Order(item="a", when=date(2026, 1, 2))), "d58ba4c3"),
        (short({"b", "a"}), "3554d2b8"),
        (short({1: "a", "b": 2}), "9b310fd0"),
    ],
)
def test_names_are_those_of_the_runs_that_users_have_in_flight(made: str, stored: str) -> None:
    """Only a name of something that no release has recorded may be changed here."""
    assert made == stored


# Digests ----------------------------------------------------------------------------


@pytest.mark.some_entries
@settings(deadline=None, max_examples=EXAMPLES)
@given(json_values, json_values)
def test_a_digest_tells_values_apart_and_does_not_depend_on_their_order(a: Any, b: Any) -> None:
    shuffled = dict(reversed(a.items())) if isinstance(a, dict) else a
    assert digest(a) == digest(shuffled)
    if json.dumps(a, sort_keys=True) != json.dumps(b, sort_keys=True):
        assert digest(a) != digest(b)


@pytest.mark.some_entries
@settings(deadline=None, max_examples=EXAMPLES)
@given(st.lists(st.dictionaries(st.text(), st.text() | json_values)) | json_values)
def test_a_digest_is_that_of_the_sorted_json(value: Any) -> None:
    text = json.dumps(value, sort_keys=True)
    for _ in range(2):  # texts of messages are remembered
        assert digest(value) == hashlib.sha256(text.encode()).hexdigest()


PAIRS: list[tuple[Any, Any]] = [
    (date(2026, 1, 1), date(2026, 1, 2)),
    (datetime(2026, 1, 1, 1), datetime(2026, 1, 1, 2)),
    (time(1), time(2)),
    (timedelta(1), timedelta(2)),
    (Decimal("1.1"), Decimal("1.2")),
    (UUID(int=1), UUID(int=2)),
    (Path("a"), Path("b")),
    (Size.S, Size.L),
    (b"a", b"b"),
    (float("nan"), float("inf")),
    ({"a"}, {"b"}),
    ((1, 2), (1, 3)),
    ({1: "a"}, {2: "a"}),
    (Item("a"), Item("b")),
    (Order(item="a"), Order(item="b")),
    (Order(item="a", when=date(2026, 1, 1)), Order(item="a", when=date(2026, 1, 2))),
    (Tagged(tags=set("abcdefgh")), Tagged(tags=set("abcdefgi"))),
    (SimpleNamespace(tags=set("abcdefgh")), SimpleNamespace(tags=set("abcdefgi"))),
    (deque([set("abcdefgh")]), deque([set("abcdefgi")])),
    (AnyUrl("https://a.example"), AnyUrl("https://b.example")),
    (1 + 1j, 1 + 2j),
    (Path("/wallets/0x1"), Path("/wallets/0x2")),
    (AnyUrl("https://a.example/0x52908400"), AnyUrl("https://a.example/0xde709f21")),
    (b"x", hashlib.sha256(b"x").hexdigest()),
    (10**5000, 10**5000 + 1),
]


@pytest.mark.parametrize(("a", "b"), PAIRS, ids=lambda value: type(value).__name__)
def test_arguments_as_crewai_hands_them_to_a_tool_are_told_apart(a: Any, b: Any) -> None:
    """Parallel calls of one tool are named by arguments that its schema has converted."""
    assert names.tool("book", {"x": a}) != names.tool("book", {"x": b})
    assert names.tool("book", {"x": [a, b]}) != names.tool("book", {"x": [b, a]})


@pytest.mark.parametrize(
    "value", [{1: "a", "b": 2}, {(1, 2): 3}, {None: 1, "x": 2}, {"a": {1: {True: 2}}}], ids=repr
)
def test_a_mapping_may_have_any_keys(value: Any) -> None:
    assert digest(value) == digest(dict(reversed(value.items())))


def endless() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "value",
    [object(), Live(connection=object()), endless(), Unprintable(), lambda: None, Order],
    ids=lambda value: type(value).__name__,
)
def test_an_argument_that_has_no_text_does_not_stop_the_call(value: Any) -> None:
    name = names.tool("book", {"x": value})
    assert name == names.tool("book", {"x": value})


def test_an_argument_is_not_named_by_its_address() -> None:
    values = [object() for _ in range(3)]
    assert len({digest(value) for value in values}) == 1
    functions = [lambda: None for _ in range(3)]
    assert len({digest(function) for function in functions}) == 1


@pytest.mark.crash
def test_names_are_the_same_in_every_process() -> None:
    values = "[{'b': 1, 'a': {'x', 'y', 'z'}}, *sum(t.PAIRS, ()), object(), t.Order, len]"
    digests = f"[t.digest(value) for value in {values}]"
    path = os.pathsep.join([str(Path(__file__).parent), *map(os.path.abspath, sys.path)])
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    told = subprocess.run(
        [sys.executable, "-c", f"import test_names as t; print({digests})"],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    here = eval(digests, {"t": sys.modules[__name__]})
    assert told.stdout.strip() == str(here)


# Paths ------------------------------------------------------------------------------


@pytest.mark.some_entries
@settings(deadline=None, max_examples=EXAMPLES)
@given(texts, texts)
def test_a_part_of_a_path_does_not_break_the_path_and_stays_its_own(a: str, b: str) -> None:
    part = names.escaped(a)
    part.encode()
    assert not set(part) & {"/", "#", "\x00", "\n", "\x1b", "\x85", "\x9b", "\u2028", "\ud800"}
    assert (part == names.escaped(b)) == (a == b)


@pytest.mark.some_entries
@settings(deadline=None, max_examples=EXAMPLES)
@given(st.lists(texts.filter(bool), min_size=1, max_size=3), st.integers(1, 10**6))
def test_a_name_is_read_as_it_was_made(parts: list[str], occurrence: int) -> None:
    *above, what = map(names.escaped, parts)
    path = ""
    for part in above:
        path = names.numbered(path, part, 1)
    name = names.numbered(path, what, occurrence)
    entry = read_entry(row(name))
    assert entry is not None
    assert (entry.path, entry.what, entry.occurrence) == (path, what, occurrence)


def row(name: str, output: Any = None) -> RecordedRow:
    return RecordedRow(1, name, output or {"v": 1, "kind": "work", "result": 1})


@pytest.mark.parametrize("name", ["bare", "DBOS.sleep", "Class.method", "a/b", "#", "x#", "#1"])
def test_steps_of_the_user_are_not_ours(name: str) -> None:
    assert read_entry(row(name)) is None


@pytest.mark.parametrize("name", ["review#1", "gpt#2"])
def test_a_step_of_the_user_with_a_number_is_not_ours_either(name: str) -> None:
    assert read_entry(row(name, "its result")) is None


@pytest.mark.parametrize("name", ["llm#1", "function_calling_llm#1", "tokens#2", "a#1/date#1"])
def test_a_row_of_ours_with_a_damaged_output_is_still_ours(name: str) -> None:
    """It would be made again, silently, if it were taken for the user's."""
    entry = read_entry(row(name, "damaged"))
    assert entry is not None
    assert not entry.is_readable
