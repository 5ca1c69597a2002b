"""Classes that say otherwise than the built-in one what they are: what is in them is stored."""

from __future__ import annotations

import enum
import errno
import logging
import math
import pickle
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from datetime import time as clock
from typing import Any, Generic, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel, ConfigDict

from codec.errors import error_back
from codec.values import back
from crewai_dbos._stored.codec import decode
from crewai_dbos._stored.errors import decode_error, encode_error
from crewai_dbos.errors import UnstorableValueError

T = TypeVar("T")


# Derived from built-in classes --------------------------------------------------------------


class Masked(str):
    def __str__(self) -> str:
        return "***"


class Ninety(int):
    def __int__(self) -> int:
        return 99


class Rounded(float):
    def __float__(self) -> float:
        return 0.0


class Sealed(bytes):
    def __bytes__(self) -> bytes:
        return b"***"

    def __getitem__(self, index: Any) -> Any:
        return 0


class Backwards(list):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return reversed(list(super().__iter__()))


class Loop(deque):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter([])


class Shouting(dict):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter(["x"])

    def items(self) -> Any:
        return [("x", 1)]

    def keys(self) -> Any:
        return ["x"]


class Turned(OrderedDict):  # type: ignore[type-arg]
    def items(self) -> Any:
        return [("x", 1)]


class Tally(Counter):  # type: ignore[type-arg]
    def items(self) -> Any:
        return []

    def __iter__(self) -> Any:
        return iter([])


class Tags(set):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter([])


class Held(frozenset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter([])


class _Pair(NamedTuple):
    first: int
    second: int


class Pair(_Pair):
    def __iter__(self) -> Any:
        return iter([7, 7])


def turned() -> Turned:
    made = Turned(a=1, b=2)
    made.move_to_end("a")
    return made


_BUILT_IN: dict[type, Any] = {
    str: lambda value: str.__str__(value),
    int: lambda value: int.__int__(value),
    float: lambda value: float.__float__(value),
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    list: lambda value: list(list.__iter__(value)),
    deque: lambda value: list(deque.__iter__(value)),
    OrderedDict: lambda value: list(OrderedDict.items(value)),
    dict: lambda value: list(dict.items(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: set(frozenset.__iter__(value)),
    tuple: lambda value: list(tuple.__iter__(value)),
}


@pytest.mark.parametrize(
    ("value", "base"),
    [
        (Masked("hello"), str),
        (Ninety(5), int),
        (Rounded(2.5), float),
        (Sealed(b"abc"), bytes),
        (Backwards([1, 2, 3]), list),
        (Loop([1, 2], maxlen=3), deque),
        (Shouting(a=1, b=2), dict),
        (turned(), OrderedDict),
        (Tally("aab"), dict),
        (Tags([1, 2]), set),
        (Held([1, 2]), frozenset),
        (Pair(1, 2), tuple),
    ],
)
def test_what_is_in_it_is_stored_whatever_its_class_says(value: Any, base: type) -> None:
    again = back(value)
    assert type(again) is type(value)
    assert _BUILT_IN[base](again) == _BUILT_IN[base](value)


# Dataclasses and models ----------------------------------------------------------------------


@dataclass
class Crate(Generic[T]):
    content: T


class Stack(list, Generic[T]):  # type: ignore[type-arg]
    name: str


def test_a_generic_class_made_with_its_parameter(caplog: pytest.LogCaptureFixture) -> None:
    assert back(Crate[int](1)) == Crate(1)
    stack: Stack[int] = Stack[int]([1, 2])
    stack.name = "s"
    again = back(stack)
    assert type(again) is Stack
    assert (again, again.name) == ([1, 2], "s")
    assert not caplog.records


class Shown(list):  # type: ignore[type-arg]
    def __getstate__(self) -> dict[str, Any]:
        return {"shown": self.hidden}

    hidden: str = ""


def test_what_a_class_itself_says_is_its_state_is_stored() -> None:
    value = Shown([1])
    value.hidden = "it"
    again = back(value)
    assert (again, vars(again)) == ([1], {"shown": "it"})


@dataclass
class PaymentError(Exception):
    code: int


@dataclass
class Basket(dict):  # type: ignore[type-arg]
    owner: str


@pytest.mark.parametrize("value", [PaymentError(1), Basket("Ann")])
def test_a_dataclass_that_is_something_else_as_well_is_refused(value: Any) -> None:
    with pytest.raises(UnstorableValueError, match="derived from a built-in class"):
        back(value)


def test_an_attribute_that_looks_like_one_of_python_is_refused() -> None:
    crate = Crate(1)
    crate.__dict__["__of__"] = 1
    with pytest.raises(UnstorableValueError, match="'__of__'"):
        back(crate)


class Reply(BaseModel):
    model_config = ConfigDict(extra="allow")
    id: int


def test_what_a_model_has_beside_its_fields_may_be_called_anything() -> None:
    value = Reply.model_validate({"id": 1, "__typename": "User", "$ref": {"__class__": "x"}})
    again = back(value)
    assert again == value
    assert again.model_extra == {"__typename": "User", "$ref": {"__class__": "x"}}
    assert again.__typename == "User"


def test_a_name_of_python_in_a_row_does_nothing() -> None:
    path = f"{__name__}:Reply"
    row = {"$model": path, "fields": {"id": 1}, "set": [], "extra": {"__class__": "int"}}
    assert type(decode(row)) is Reply


# Enums ------------------------------------------------------------------------------------


class Severity(enum.Enum):
    LOW = (1, "low")

    @property
    def value(self) -> Any:
        return self._value_[1]


class Limit(enum.Enum):
    NONE = math.nan
    TEN = 10.0


class Handler(enum.Enum):
    ONE = object()


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@pytest.mark.parametrize(
    "member", [*Severity, *Limit, *Access, Access.READ | Access.WRITE, Access(0)]
)
def test_a_member_comes_back_whatever_its_class_calls_its_value(member: enum.Enum) -> None:
    assert back(member) is member


class Bits(enum.IntFlag):
    ONE = 1


def test_bits_that_have_no_name_are_kept() -> None:
    again = back(Bits(9))
    assert (type(again), again) == (Bits, 9)


def test_a_member_that_can_not_be_found_again_is_refused() -> None:
    with pytest.raises(UnstorableValueError):
        back(Handler.ONE)


# Errors -----------------------------------------------------------------------------------


class NoSuchTemplate(FileNotFoundError):
    def __init__(self, name: str) -> None:
        super().__init__(errno.ENOENT, "No such template", name)


class Plain(OSError):
    """Made of a text alone."""


class Bare(OSError):
    """Goes past the constructor that tells arguments apart."""

    def __init__(self, *args: str) -> None:
        Exception.__init__(self, *args)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file", "/nope"),
        OSError(errno.EXDEV, "Not on one device", "a", None, "b"),
        NoSuchTemplate("letter"),
        Plain("gone"),
        Bare("a", "b", "c"),
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
    ],
)
def test_an_os_error_has_its_arguments_and_its_files_again(error: OSError) -> None:
    again = error_back(error)
    assert type(again) is type(error)
    assert (str(again), again.args) == (str(error), error.args)
    assert (again.errno, again.strerror) == (error.errno, error.strerror)
    assert (again.filename, again.filename2) == (error.filename, error.filename2)


class Unknown(OSError):
    """Of a package that is not here where it is read."""


def test_one_that_stands_in_for_it_has_them_in_another_process_too() -> None:
    stored = encode_error(Unknown(errno.ENOENT, "No such file", "/nope"))
    stored["type"] = "gone:Unknown"
    again: Any = pickle.loads(pickle.dumps(decode_error(stored)))
    assert isinstance(again, OSError)
    assert str(again) == "[Errno 2] No such file: '/nope'"


@dataclass(slots=True)
class Declined(Exception):
    code: int


class Limited(Exception):
    __slots__ = ("after", "unset")

    def __init__(self, after: int) -> None:
        super().__init__(f"after {after} s")
        self.after = after


def test_what_an_error_has_in_slots_comes_back() -> None:
    assert error_back(Declined(7)).code == 7
    again = error_back(Limited(3))
    assert (again.after, hasattr(again, "unset")) == (3, False)


# Zones ------------------------------------------------------------------------------------


class Visit(BaseModel):
    at: datetime
    opens: clock


def test_a_time_that_pydantic_has_read_comes_back_without_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    value = Visit.model_validate({"at": "2026-07-01T10:00:00+02:00", "opens": "09:00:00Z"})
    again = back(value)
    assert again == value
    assert again.at.utcoffset() == timedelta(hours=2)
    assert again.opens.utcoffset() == timedelta(0)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "zone",
    [
        ZoneInfo("Europe/Berlin"),
        timezone.utc,
        timezone(timedelta(hours=-3, minutes=-30)),
        timezone(timedelta(hours=1), "CET"),
    ],
)
def test_a_zone_is_a_value(zone: Any) -> None:
    again = back({"zone": zone})["zone"]
    assert type(again) is type(zone)
    assert (again, str(again)) == (zone, str(zone))


@pytest.mark.parametrize(
    "row",
    [
        {"$zone": "../../etc/passwd"},
        {"$zone": 1},
        {"$offset": [2, 0, 0]},
        {"$offset": [0, 0, 0], "name": 1},
        {"$offset": [0, 0, 0], "of": 1},
    ],
)
def test_a_row_makes_no_zone_that_there_is_not(row: Any) -> None:
    with pytest.raises(UnstorableValueError):
        decode(row)
