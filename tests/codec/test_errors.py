"""An error is raised again as what it was, or as something near it."""

from __future__ import annotations

import json
import math
import pickle
import sys
import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Literal

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    Field,
    TypeAdapter,
    ValidationError,
    create_model,
    field_validator,
)
from pydantic_core import PydanticCustomError

from codec.errors import REQUEST, Demanding, error_back, response, stored_error
from codec.values import Animal, values
from crewai_dbos._stored import redaction
from crewai_dbos._stored.errors import decode_error, encode_error
from crewai_dbos.errors import CrewaiDbosError, RecordedError
from support.examples import examples


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
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        UnicodeEncodeError("utf-8", "a\ud83d", 1, 2, "surrogates not allowed"),
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


class Checked(BaseModel):
    """Fails in each way that a validation may fail."""

    name: str
    count: int = Field(gt=3)
    level: Literal["low", "high"] = "low"

    @field_validator("name")
    @classmethod
    def check(cls, name: str) -> str:
        assert name != "assert", "said so"
        if name == "custom":
            raise PydanticCustomError("odd", "{name} is {what}", {"name": name, "what": "odd"})
        if name == "value":
            raise ValueError(f"no {name}: {{x}}")
        return name


class Hidden(BaseModel, hide_input_in_errors=True):
    count: int
    odd: Any = None

    @field_validator("odd")
    @classmethod
    def check(cls, odd: Any) -> Any:
        raise PydanticCustomError("odd", "It is odd: input_value=no", {"given": odd})


def failure_of(validate: Callable[[], Any]) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        validate()
    return caught.value


@pytest.mark.parametrize(
    "validate",
    [
        lambda: Animal(name=1),  # type: ignore[arg-type]
        lambda: Checked(name="assert", count=2, level="x"),  # type: ignore[arg-type]
        lambda: Checked(name="custom", count="x"),  # type: ignore[arg-type]
        lambda: Checked.model_validate({"name": "value"}),
        lambda: Checked.model_validate_json("# Text, not JSON"),
        lambda: Checked.model_validate_json('{"name": [], "count": 2.5}'),
        lambda: TypeAdapter(list[int]).validate_python([1, "x", None]),
    ],
)
def test_an_error_of_a_validation_comes_back(validate: Callable[[], Any]) -> None:
    error = failure_of(validate)
    decoded = error_back(error)
    assert type(decoded) is ValidationError
    assert str(decoded) == str(error)
    assert decoded.title == error.title
    for one, other in zip(decoded.errors(), error.errors(), strict=True):
        assert {**one, "ctx": str(one.get("ctx"))} == {**other, "ctx": str(other.get("ctx"))}
    assert str(error_back(decoded)) == str(error)


@pytest.mark.parametrize(
    "validate",
    [
        lambda: Hidden(count="4111-1111"),  # type: ignore[arg-type]
        lambda: Hidden.model_validate({"cuont": "4111-1111"}),
        lambda: Hidden.model_validate({"count": {"input_value=": "4111-1111"}}),
        lambda: Hidden(count=1, odd="4111-1111"),
    ],
)
def test_an_input_that_a_model_hides_is_not_stored(validate: Callable[[], Any]) -> None:
    error = failure_of(validate)
    assert "4111" not in stored_error(error)
    decoded = error_back(error)
    assert type(decoded) is ValidationError
    assert str(decoded) == str(error)
    assert [each["loc"] for each in decoded.errors()] == [each["loc"] for each in error.errors()]


Wide: Any = create_model("Wide", **dict.fromkeys([f"f{i}" for i in range(60)], (int, ...)))


@pytest.mark.parametrize(
    "validate",
    [
        lambda: Checked.model_validate(object()),  # has no JSON form
        lambda: Checked(name="assert", count="x" * 5_000),  # type: ignore[arg-type]
        lambda: Checked(name=["x" * 1_000] * 5, count=4),  # type: ignore[arg-type]
        lambda: Checked(name="custom " * 1_000, count="é" * 60),  # type: ignore[arg-type]
        lambda: Checked.model_validate_json("x" * 2_000_000),
        lambda: Wide.model_validate({"document": "x" * 3_000_000}),
        lambda: Wide.model_validate(dict.fromkeys(range(30_000))),
        lambda: Wide.model_validate({"small": "x" * 100}),  # sixty times that
    ],
)
def test_of_large_inputs_no_more_is_stored_than_the_message_has(
    validate: Callable[[], Any],
) -> None:
    error = failure_of(validate)
    tracemalloc.start()
    stored = stored_error(error)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 15_000_000
    assert "x" * 60 not in stored
    decoded = error_back(error)
    assert type(decoded) is ValidationError
    assert str(decoded) == str(error) == str(error_back(decoded))
    assert str(pickle.loads(pickle.dumps(decoded))) == str(error)
    for one, other in zip(decoded.errors(), error.errors(), strict=True):
        assert (one["loc"], one["msg"], one["type"]) == (other["loc"], other["msg"], other["type"])


class Own(dict[str, Any]):
    """Comes back as a plain dict."""


def test_an_input_that_is_another_one_as_data_looks_as_it_did() -> None:
    error = failure_of(lambda: Animal(name=Own(a=1)))  # type: ignore[arg-type]
    decoded = error_back(error)
    assert type(decoded) is ValidationError
    assert str(decoded) == str(error)


class InTwoLines:
    def __repr__(self) -> str:
        return "two\nlines"


def test_one_that_can_not_be_made_again_has_a_stand_in_of_its_nearest_base() -> None:
    error = failure_of(lambda: Checked.model_validate(InTwoLines()))
    decoded = error_back(error)
    assert isinstance(decoded, ValueError)
    assert isinstance(decoded, RecordedError)
    assert isinstance(decoded, CrewaiDbosError)
    assert str(decoded) == str(error)
    assert decoded.recorded_type == "pydantic_core._pydantic_core:ValidationError"


def test_the_errors_of_a_validation_are_stored_without_secrets() -> None:
    error = failure_of(lambda: Checked.model_validate({"name": "n", "count": "sesame-81"}))
    assert "sesame-81" not in stored_error(error, "sesame-81")
    decoded = error_back(error, "sesame-81")
    assert type(decoded) is ValidationError
    assert decoded.errors()[0]["input"] == "***"
    long = failure_of(lambda: Checked.model_validate({"name": "n", "count": "4111 " * 2_000}))
    stored: Any = encode_error(long)
    redacted: Any = redaction.redacted_error(stored, lambda text: text.replace("4111", "####"))
    assert "4111" not in json.dumps(redacted)
    again = decode_error(redacted)
    assert type(again) is ValidationError
    assert str(again) == redacted["message"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python has no groups of errors")
def test_a_group_of_errors_comes_back() -> None:
    class Local(Exception):
        pass

    group = ExceptionGroup("two", [KeyError("key"), ExceptionGroup("in", [Local("l"), invalid()])])  # noqa: F821
    decoded: Any = error_back(group)
    assert type(decoded) is type(group)
    assert (str(decoded), decoded.message) == (str(group), "two")
    first, inner = decoded.exceptions
    assert (type(first), first.args) == (KeyError, ("key",))
    assert [type(each) for each in inner.exceptions][1] is ValidationError
    assert isinstance(inner.exceptions[0], RecordedError)
    assert str(inner.exceptions[0]) == "l"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python has no groups of errors")
def test_the_errors_of_a_group_keep_their_classes_when_their_texts_are_redacted() -> None:
    group = ExceptionGroup("two", [KeyError("key"), ValueError("v")])  # noqa: F821
    stored: Any = encode_error(group)
    decoded: Any = decode_error(redaction.redacted_error(stored, lambda _: "-"))
    assert isinstance(decoded, RecordedError)
    assert str(decoded) == "-"
    same: Any = decode_error(
        redaction.redacted_error(stored, lambda text: text.replace("key", "-"))
    )
    assert [(type(each), each.args) for each in same.exceptions] == [
        (KeyError, ("-",)),
        (ValueError, ("v",)),
    ]


@pytest.mark.parametrize(
    ("error", "base"),
    [
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


@examples(30, 100)
@given(st.lists(values, max_size=3))
def test_any_arguments_of_an_error_are_stored_as_strict_json(args: list[Any]) -> None:
    error = RuntimeError(*args)
    decoded = error_back(error)
    assert isinstance(decoded, Exception)
    if all(ord(c) < 0xD800 or ord(c) > 0xDFFF for c in str(error)):
        assert str(decoded) == str(error)


def test_the_error_of_a_time_limit_comes_back() -> None:
    from dbos._error import DBOSStepTimeoutError

    error = DBOSStepTimeoutError("work/llm#1", 1.5)
    decoded = error_back(error)
    assert type(decoded) is DBOSStepTimeoutError
    assert str(decoded) == str(error)
