"""What can't be stored or read, and what is said about it."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from codec.values import Animal, Point, back
from crewai_dbos._stored.codec import decode, encode
from crewai_dbos.errors import UnstorableValueError


class _Outer:
    class Inner(enum.Enum):
        A = 1


def _local_things() -> list[Any]:
    class Shade(enum.Enum):
        DARK = 1

    @dataclass
    class Pair:
        a: int

    return [Shade.DARK, Pair(1)]


@pytest.mark.parametrize(
    "value",
    [object(), print, type, iter(()), Animal, openai, *_local_things()],
    ids=lambda value: re.sub(" (at|from) .*", ">", repr(value)),
)
def test_what_has_no_json_form_is_refused_with_the_fix(value: Any) -> None:
    for holder in (value, [value], {"key": value}, Point(value)):
        with pytest.raises(UnstorableValueError, match="top level of a module"):
            encode(holder)


def test_a_class_is_no_value_of_itself() -> None:
    with pytest.raises(UnstorableValueError):
        encode(Point)


def test_a_class_inside_a_class_can_be_found_again() -> None:
    assert back(_Outer.Inner.A) is _Outer.Inner.A


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises((UnstorableValueError, RecursionError)):
        encode(loop)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"$model": "nowhere:Thing", "fields": {}, "set": []}, "nowhere:Thing"),
        ({"$model": "codec.values:Gone", "fields": {}, "set": []}, "leave an alias"),
        ({"$model": "codec.values:Point", "fields": {}, "set": []}, "is not a BaseModel"),
        ({"$enum": "codec.values:Point", "value": 1}, "is not a Enum"),
        ({"$later": 1}, "newer crewai-dbos"),
    ],
)
def test_what_can_not_be_read_says_why(data: Any, told: str) -> None:
    with pytest.raises(UnstorableValueError, match=told):
        decode(data)
