"""What is stored of a value or an error is strict JSON, and gives back what was stored."""

from __future__ import annotations

import enum
import functools
import json
import math
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Generic, TypeVar
from uuid import UUID

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessageFunctionToolCall
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel, ValidationError

from crewai_dbos._codec import MAX_CAUSES, decode, decode_error, encode, encode_error
from crewai_dbos._errors import CrewaiDbosError, RecordedError, UnstorableValueError

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
    _hidden: int = PrivateAttr(default=0)


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


# Values ------------------------------------------------------------------------

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


@settings(deadline=None, max_examples=400)
@given(values)
def test_any_value_comes_back_with_its_types_from_strict_json(value: Any) -> None:
    assert same(back(value), value)


@settings(deadline=None)
@given(st.sets(hashable_scalars) | st.frozensets(hashable_scalars))
def test_sets_come_back_as_sets(value: Any) -> None:
    decoded = back(value)
    assert type(decoded) is type(value)
    assert decoded == value


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda items: (
        st.lists(items)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"])).filter(
                lambda key: not key.startswith("$")
            ),
            items,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(json_values)
def test_what_is_json_already_is_stored_as_it_is(value: Any) -> None:
    assert same(encode(value), value)


def test_what_comes_back_is_a_copy() -> None:
    value = {"list": [1], "model": Dog(name="Rex", tricks=["sit"])}
    decoded = back(value)
    decoded["list"].append(2)
    decoded["model"].tricks.append("roll")
    assert value == {"list": [1], "model": Dog(name="Rex", tricks=["sit"])}


@pytest.mark.parametrize(
    "value",
    [
        Owner(pet=Dog(name="Rex", tricks=["sit"]), others=[Dog(name="Bo"), Animal(name="Tom")]),
        Open(known=2, nested={"$key": Point(1, Dog(name="Rex"))}),
        Aliased(**{"from": "here"}),
        Numbers([1, 2]),
        IntBox(content=3),
        Computed(4),
        Frozen("f", (Colour.RED, Frozen("inner"))),
        {Frozen("as a key"): 1},
        {1: "int", "1": "str", (1,): "tuple", None: "none", "$model": "not a model"},
        {"$float": "nan"},
        [{"$local": "x", "data": 1}],
        "\ud83d alone",
        "nul \x00 inside",
        {"nul\x00key": "\ud800"},
        datetime(2026, 11, 1, 1, 30, tzinfo=timezone(timedelta(hours=-5))),
        [date(2026, 1, 2), time(3, 4, 5, 6), timedelta(-1, 2, 3), Decimal("1.10"), UUID(int=7)],
    ],
    ids=repr,
)
def test_a_value_comes_back_whole(value: Any) -> None:
    decoded = back(value)
    assert decoded == value
    assert repr(decoded) == repr(value)


def test_a_model_that_was_not_validated_comes_back_as_it_was() -> None:
    odd = Animal.model_construct(name=5)
    assert back(odd).name == 5


def test_fields_left_at_their_default_stay_unset() -> None:
    assert back(Dog(name="Rex")).model_dump(exclude_unset=True) == {"name": "Rex"}


def test_tool_calls_of_openai_come_back() -> None:
    call = ChatCompletionMessageFunctionToolCall.model_validate(
        {"id": "call_1", "type": "function", "index": 0,
         "function": {"name": "look_up", "arguments": '{"key": "\\ud83d"}'}}
    )  # fmt: skip
    [decoded] = back([call])
    assert type(decoded) is ChatCompletionMessageFunctionToolCall
    assert decoded == call
    assert decoded.function.arguments == call.function.arguments
    assert decoded.model_dump() == call.model_dump()


def test_the_answer_of_an_agent_comes_back_with_its_model() -> None:
    from crewai.lite_agent_output import LiteAgentOutput

    answer = LiteAgentOutput(
        raw="Rex",
        pydantic=Dog(name="Rex", tricks=["sit"]),
        agent_role="Namer",
        usage_metrics={"total_tokens": 3},
        messages=[{"role": "user", "content": "A name?"}],
    )
    decoded = back(answer)
    assert type(decoded.pydantic) is Dog
    assert decoded.pydantic.tricks == ["sit"]
    assert decoded == answer


def test_a_model_is_not_initialised_a_second_time() -> None:
    assert back(Counting(number=1)).number == 2


def test_a_private_attribute_is_not_lost() -> None:
    model = Secretive(shown=1)
    model._hidden = 2
    assert back(model)._hidden == 2


def test_what_a_model_computed_for_itself_is_not_in_the_way() -> None:
    model = Lazy(number=1)
    assert model.connection
    assert back(model).number == 1


def test_a_model_may_call_a_field_cls() -> None:
    assert back(Classifier(cls="spam")).cls == "spam"


# Models that no other process can import -------------------------------------------


def test_a_local_model_needs_to_be_known() -> None:
    class Local(BaseModel):
        number: int

    with pytest.raises(UnstorableValueError, match="top level of a module"):
        encode(Local(number=1))
    decoded = back([Local(number=1)], (Local,))
    assert decoded == [Local(number=1)]
    assert type(decoded[0]) is Local


def test_a_local_model_may_have_aliases() -> None:
    class Local(BaseModel):
        from_: str = Field(alias="from")

    assert back(Local(**{"from": "here"}), (Local,)).from_ == "here"


@pytest.mark.parametrize("number", [math.nan, math.inf], ids=str)
def test_a_local_model_may_hold_any_number(number: float) -> None:
    class Local(BaseModel):
        number: float

    assert same(back(Local(number=number), (Local,)).number, number)


@pytest.mark.parametrize("content", [b"\xff", "\ud800"], ids=repr)
def test_a_local_model_may_hold_any_text_and_bytes(content: Any) -> None:
    class Local(BaseModel):
        content: Any

    assert back(Local(content=content), (Local,)).content == content


def test_a_local_model_keeps_the_classes_of_what_it_holds() -> None:
    class Local(BaseModel):
        pet: Animal
        anything: Any

    decoded = back(Local(pet=Dog(name="Rex", tricks=["sit"]), anything=Dog(name="Bo")), (Local,))
    assert decoded.pet == Dog(name="Rex", tricks=["sit"])
    assert decoded.anything == Dog(name="Bo")


# What can't be stored ---------------------------------------------------------------


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
    "value", [object(), print, type, iter(()), Animal, openai, *_local_things()], ids=repr
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
        ({"$model": "test_codec:Gone", "fields": {}, "set": []}, "leave an alias"),
        ({"$model": "test_codec:Point", "fields": {}, "set": []}, "is not a BaseModel"),
        ({"$enum": "test_codec:Point", "value": 1}, "is not a Enum"),
        ({"$later": 1}, "newer crewai-dbos"),
    ],
)
def test_what_can_not_be_read_says_why(data: Any, told: str) -> None:
    with pytest.raises(UnstorableValueError, match=told):
        decode(data)


# Errors -----------------------------------------------------------------------------

REQUEST = httpx.Request("POST", "https://api.openai.com/v1/chat/completions")


def response(status: int, **headers: str) -> httpx.Response:
    return httpx.Response(status, request=REQUEST, headers=headers)


def stored_error(error: BaseException, *secrets: str) -> str:
    text = json.dumps(encode_error(error, secrets), allow_nan=False, ensure_ascii=False)
    text.encode("utf-8")
    return text


def error_back(error: BaseException, *secrets: str) -> Any:
    return decode_error(json.loads(stored_error(error, *secrets)))


class Demanding(Exception):
    """Can't be built from its message."""

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class Formatted(Exception):
    """Its text comes from its attributes."""

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.code} {self.reason}"


class Live(Exception):
    """Its text comes from something that is not stored."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __str__(self) -> str:
        return f"from {self.source.name}"


def invalid() -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Animal(name=1)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        openai.RateLimitError("slow", response=response(429), body={"code": "rate_limit"}),
        openai.BadRequestError(
            "long", response=response(400), body={"code": "context_length_exceeded"}
        ),
        openai.AuthenticationError("who", response=response(401), body=None),
        openai.InternalServerError("oops", response=response(500), body=None),
        openai.APIConnectionError(request=REQUEST),
        openai.APITimeoutError(request=REQUEST),
        httpx.ConnectError("refused", request=REQUEST),
        httpx.HTTPStatusError("bad", request=REQUEST, response=response(500)),
        KeyError("key"),
        ValueError(),
        ValueError("one", 2, None),
        ValueError("nul \x00 inside"),
        OSError(28, "No space left on device"),
        TimeoutError("late"),
        Demanding(7, detail="no"),
        Formatted(8, "no"),
        AssertionError(),
        StopIteration("x"),
    ],
    ids=repr,
)
def test_an_error_comes_back_as_what_it_was(error: Exception) -> None:
    decoded = error_back(error)
    assert type(decoded) is type(error)
    assert str(decoded) == str(error)
    assert decoded.args == error.args
    for name in ("status_code", "code", "param", "request_id", "detail", "errno"):
        assert getattr(decoded, name, None) == getattr(error, name, None)


def test_a_recorded_error_can_be_raised_and_recorded_again() -> None:
    first = error_back(openai.RateLimitError("slow", response=response(429), body=None))
    second = error_back(first)
    with pytest.raises(openai.RateLimitError, match="slow") as caught:
        raise second
    assert caught.value.status_code == 429


def test_an_error_that_can_not_be_rebuilt_has_a_stand_in_of_its_nearest_base() -> None:
    error = invalid()
    decoded = error_back(error)
    assert isinstance(decoded, ValueError)
    assert isinstance(decoded, RecordedError)
    assert isinstance(decoded, CrewaiDbosError)
    assert str(decoded) == str(error)
    assert decoded.recorded_type == "pydantic_core._pydantic_core:ValidationError"


@pytest.mark.parametrize(
    ("error", "base"),
    [
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), ValueError),
        (Live(SimpleNamespace(name="x")), Exception),
    ],
    ids=repr,
)
def test_whatever_the_stand_in_it_tells_the_same(error: Exception, base: type) -> None:
    decoded = error_back(error)
    assert isinstance(decoded, base)
    assert str(decoded) == str(error)
    assert decoded.recorded_type.endswith(type(error).__qualname__)


def test_an_error_class_of_a_function_has_a_stand_in() -> None:
    class Local(Demanding):
        pass

    class LocalValue(ValueError):
        pass

    decoded = error_back(Local(3, detail="no"))
    assert isinstance(decoded, RecordedError)
    assert str(decoded) == "3: no"
    assert decoded.recorded_type.endswith("<locals>.Local")
    assert isinstance(error_back(LocalValue("v")), ValueError)


def test_a_stand_in_keeps_what_crewai_and_retries_look_at() -> None:
    class Throttled(openai.RateLimitError):
        pass

    error = Throttled("slow", response=response(429), body={"code": "rate_limit"})
    decoded = error_back(error)
    assert isinstance(decoded, openai.OpenAIError)
    assert (decoded.status_code, decoded.code) == (429, "rate_limit")


@pytest.mark.parametrize(
    "error",
    [
        ValueError({"field": "name"}),
        KeyError(("tuple", "key")),
        FileNotFoundError(2, "No such file or directory", "/tmp/x"),
    ],
    ids=repr,
)
def test_an_error_with_other_than_plain_arguments_is_still_one_of_its_class(
    error: Exception,
) -> None:
    decoded = error_back(error)
    assert str(decoded) == str(error)
    assert isinstance(decoded, type(error))


@pytest.mark.parametrize("number", [math.nan, math.inf], ids=str)
def test_an_error_about_a_number_that_json_lacks_is_stored(number: float) -> None:
    decoded = error_back(ValueError(number))
    assert isinstance(decoded, ValueError)
    assert str(decoded) == str(number)


def test_a_text_that_is_no_text_does_not_keep_an_error_from_being_stored() -> None:
    assert isinstance(error_back(ValueError("half \ud83d")), ValueError)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_error_without_a_text_is_stored() -> None:
    assert isinstance(error_back(Unprintable()), Unprintable)


@settings(deadline=None)
@given(st.lists(values, max_size=3))
def test_any_arguments_of_an_error_are_stored_as_strict_json(args: list[Any]) -> None:
    error = RuntimeError(*args)
    decoded = error_back(error)
    assert isinstance(decoded, Exception)
    if all(ord(c) < 0xD800 or ord(c) > 0xDFFF for c in str(error)):
        assert str(decoded) == str(error)


def chained(*errors: Exception) -> Exception:
    """The last of them, each caused by the one before."""
    cause: Exception | None = None
    for error in errors:
        try:
            raise error from cause
        except Exception as raised:
            cause = raised
    assert cause is not None
    return cause


def causes(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__
    return found


def test_the_causes_of_an_error_come_back() -> None:
    limit = openai.RateLimitError("slow", response=response(429), body=None)
    decoded = error_back(chained(limit, KeyError("k"), RuntimeError("at last")))
    kinds = [type(error) for error in causes(decoded)]
    assert kinds == [RuntimeError, KeyError, openai.RateLimitError]
    assert [str(error) for error in causes(decoded)] == ["at last", "'k'", "slow"]


def test_what_was_being_handled_counts_as_the_cause() -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError:
            raise RuntimeError("second")  # noqa: B904
    except RuntimeError as error:
        decoded = error_back(error)
    assert isinstance(decoded.__cause__, KeyError)


def test_a_long_or_circular_chain_ends() -> None:
    long = error_back(chained(*(ValueError(n) for n in range(50))))
    assert len(causes(long)) == MAX_CAUSES
    one, two = ValueError(1), ValueError(2)
    one.__cause__, two.__cause__ = two, one
    assert len(causes(error_back(one))) == MAX_CAUSES


def test_a_secret_is_not_stored_with_an_error() -> None:
    secret = "sk-live-0123456789"
    inner = openai.AuthenticationError(
        f"Incorrect API key provided: {secret}",
        response=response(401),
        body={"message": secret, "code": f"bad {secret}", "param": secret},
    )
    error = chained(inner, Demanding(1, detail=secret), KeyError(secret))
    text = stored_error(error, secret)
    assert secret not in text
    decoded = causes(error_back(error, secret))
    assert str(decoded[-1]) == "Incorrect API key provided: ***"
    assert [type(link) for link in decoded] == [KeyError, Demanding, openai.AuthenticationError]


def test_an_empty_api_key_does_not_blank_the_message() -> None:
    assert str(error_back(ValueError("a message"), "", "a")) == "a message"


def test_the_error_of_a_time_limit_comes_back() -> None:
    from dbos._error import DBOSStepTimeoutError

    error = DBOSStepTimeoutError("work/llm#1", 1.5)
    decoded = error_back(error)
    assert type(decoded) is DBOSStepTimeoutError
    assert str(decoded) == str(error)
