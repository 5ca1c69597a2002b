"""Containers and scalars of other classes than the built-in ones keep their class."""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict, UserString, defaultdict, deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.values import Dog, back, stored, values
from crewai_dbos.errors import UnstorableValueError
from support.examples import examples


class Place(NamedTuple):
    name: str
    pets: Any = ()


class Money(float):
    def __new__(cls, amount: float, currency: str = "EUR") -> Money:
        made = super().__new__(cls, amount)
        made.currency = currency
        return made

    currency: str


class Joined(str):
    def __new__(cls, *parts: str) -> Joined:
        return super().__new__(cls, "-".join(parts))


class Basket(list):  # type: ignore[type-arg]
    def __init__(self, owner: str) -> None:
        super().__init__()
        self.owner = owner


class Strict(dict):  # type: ignore[type-arg]
    def __init__(self, *, unit: str) -> None:
        super().__init__()
        self.unit = unit


class Tags(set):  # type: ignore[type-arg]
    def __init__(self, first: str, second: str) -> None:
        super().__init__([first, second])


class Locked(dict):  # type: ignore[type-arg]
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lock = threading.Lock()


def basket() -> Basket:
    made = Basket("Ann")
    made.append(Dog(name="Rex"))
    return made


def strict() -> Strict:
    made = Strict(unit="kg")
    made["a"] = 1
    return made


@pytest.mark.parametrize(
    "value",
    [
        Counter("abracadabra"),
        OrderedDict([("b", 1), ("a", [2])]),
        defaultdict(list, {"a": [1]}),
        defaultdict(None, {1: "x"}),
        deque([1, Dog(name="Rex")], maxlen=3),
        bytearray(b"\x00\xff"),
        Place("park", [Dog(name="Rex")]),
        Money(1.5, "USD"),
        Joined("a", "b"),
        basket(),
        strict(),
        Tags("x", "x"),  # one item: the order of a set, and so its repr, is no one's promise
        [Place("a", Counter("b"))],
        defaultdict(Dog),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_keeps_its_class(value: Any) -> None:
    decoded = back(value)
    assert decoded == value
    assert type(decoded) is type(value)
    assert repr(decoded) == repr(value)
    assert getattr(decoded, "__dict__", None) == getattr(value, "__dict__", None)


def test_a_container_works_as_before() -> None:
    groups = back(defaultdict(list, {"a": [1]}))
    groups["b"].append(2)
    last = back(deque([1, 2, 3], maxlen=3))
    last.append(4)
    assert (groups, list(last)) == ({"a": [1], "b": [2]}, [2, 3, 4])
    assert back(Counter("aab")).most_common(1) == [("a", 2)]


@examples(30, 100)
@given(st.lists(values, max_size=3))
def test_any_content_comes_back(content: list[Any]) -> None:
    assert stored(back(deque(content))) == stored(deque(content))
    assert stored(back(Place("x", content))) == stored(Place("x", content))


def test_what_can_not_be_made_again_comes_back_plain_and_is_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Inner(str):
        pass

    with caplog.at_level(logging.WARNING, "crewai_dbos"):
        decoded = [back(Inner("a")), back(Locked({"b": 1})), back(defaultdict(lambda: 0, c=2))]
        back(Inner("again"))
    assert decoded == ["a", {"b": 1}, {"c": 2}]
    assert [type(value) for value in decoded] == [str, dict, dict]
    told = [record.getMessage() for record in caplog.records]
    assert [("Inner" in line, "Locked" in line, "defaultdict" in line) for line in told] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]
    assert all("comes back from the journal as a plain" in line for line in told)


def test_what_is_none_of_them_is_refused() -> None:
    with pytest.raises(UnstorableValueError, match="UserString has no JSON form"):
        back(UserString("a"))


def test_a_dataclass_of_a_function_may_hold_another() -> None:
    @dataclass
    class Leaf:
        size: int

    # As pydantic keeps it: types, not texts.
    Leaf.__annotations__ = {"size": int}

    @dataclass
    class Tree:
        leaves: list[Any]

    Tree.__annotations__ = {"leaves": list[Leaf]}
    assert back(Tree([Leaf(1)]), (Tree,)) == Tree([Leaf(1)])
