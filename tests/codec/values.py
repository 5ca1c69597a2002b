"""Values of every kind that is stored, and how they are compared."""

from __future__ import annotations

import enum
import functools
import json
import math
import threading
from dataclasses import dataclass, field
from datetime import timedelta, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel

from crewai_dbos import store_hidden
from crewai_dbos._stored.codec import decode, encode

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    MIXED = ("red", 1)


class Level(enum.IntEnum):
    LOW = 1


class Word(str, enum.Enum):
    YES = "yes"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@dataclass
class Point:
    x: Any
    y: Any = None


@dataclass(frozen=True, slots=True)
class Frozen:
    name: str
    parts: tuple[Any, ...] = ()


@dataclass
class Computed:
    """What `__init__` would not accept: a field that is not an argument."""

    given: int
    derived: int = field(init=False)

    def __post_init__(self) -> None:
        self.derived = self.given * 2
        self.index = {self.given: "no field"}  # part of what it is, too

    @cached_property
    def handle(self) -> object:
        """Made when it is asked for, so nothing is lost if it is made anew."""
        return object()


class Animal(BaseModel):
    name: str


class Dog(Animal):
    tricks: list[str] = []


class Owner(BaseModel):
    pet: Animal
    others: list[Animal] = []
    anything: Any = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    known: int = 1


class Aliased(BaseModel):
    from_: str = Field(alias="from")


class Numbers(RootModel[list[int]]):
    pass


class Box(BaseModel, Generic[T]):
    content: T


IntBox = Box[int]


class Counting(BaseModel):
    """Changes when it is built a second time."""

    number: int

    def model_post_init(self, context: Any) -> None:
        self.number += 1


class Lazy(BaseModel):
    number: int

    @functools.cached_property
    def connection(self) -> Any:
        return object()


class Secretive(BaseModel):
    shown: int
    key: str = Field(default="", exclude=True)
    _hidden: int = PrivateAttr(default=0)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)


class Quiet(Secretive):
    pass


@store_hidden
class Trusted(Secretive):
    pass


class Classifier(BaseModel):
    cls: str


def stored(value: Any, known: tuple[type, ...] = ()) -> str:
    """The text that DBOS would write of it: strict JSON that every database takes."""
    text = json.dumps(encode(value, known), allow_nan=False, ensure_ascii=False)
    text.encode("utf-8")
    assert "\x00" not in text
    return text


def back(value: Any, known: tuple[type, ...] = ()) -> Any:
    return decode(json.loads(stored(value, known)), known)


def same(a: Any, b: Any) -> bool:
    """Equal and of the same types, where a NaN is equal to a NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (a != a and b != b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and same(list(a.items()), list(b.items()))
    if isinstance(a, (Point, Frozen)):
        names = a.__dataclass_fields__
        return all(same(getattr(a, name), getattr(b, name)) for name in names)
    if isinstance(a, BaseModel):
        return (
            same(a.__dict__, b.__dict__)
            and same(a.__pydantic_extra__, b.__pydantic_extra__)
            and a.model_fields_set == b.model_fields_set
        )
    return bool(a == b)


texts = st.text(st.characters(categories=["L", "N", "P", "S", "Z", "Cc", "Cs"]), max_size=8)
zones = st.none() | st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(
    lambda delta: timezone(timedelta(minutes=delta // timedelta(minutes=1)))
)
hashable_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    texts,
    st.binary(max_size=8),
    st.datetimes(timezones=zones),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.sampled_from([*Colour, *Level, *Word, *Rights, Rights.READ | Rights.WRITE]),
    st.sampled_from(["", ".", "a/b", "/etc/ä", "x y"]).map(Path),
)
keys = texts | texts.map("${}".format) | hashable_scalars | st.tuples(st.integers(), texts)


def containers(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    few = st.lists(items, max_size=3)
    return st.one_of(
        few,
        few.map(tuple),
        st.dictionaries(keys, items, max_size=3),
        st.builds(Point, items, items),
        st.builds(Frozen, texts, few.map(tuple)),
        st.builds(lambda pet, rest: Owner(pet=pet, anything=rest), animals, items),
        st.builds(lambda known, extra: Open(known=known, more=extra), st.integers(), items),
    )


animals = st.builds(Animal, name=texts) | st.builds(Dog, name=texts, tricks=st.lists(texts))
values = st.recursive(hashable_scalars | st.floats(), containers, max_leaves=12)
