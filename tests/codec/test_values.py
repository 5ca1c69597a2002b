"""What is stored of a value is strict JSON, and gives back what was stored."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessageFunctionToolCall
from pydantic import AnyUrl, HttpUrl, WebsocketUrl

from codec.values import (
    Aliased,
    Animal,
    Classifier,
    Colour,
    Computed,
    Counting,
    Dog,
    Frozen,
    IntBox,
    Lazy,
    Numbers,
    Open,
    Owner,
    Point,
    Quiet,
    Secretive,
    Trusted,
    back,
    hashable_scalars,
    same,
    stored,
    values,
)
from crewai_dbos._stored.codec import decode, encode
from support.examples import examples


@pytest.mark.thorough
@examples(80, 400)
@given(values)
def test_any_value_comes_back_with_its_types_from_strict_json(value: Any) -> None:
    assert same(back(value), value)


@examples(30, 100)
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


@examples(30, 100)
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
        [HttpUrl("https://Example.com"), AnyUrl("s3://a/b?c=1"), WebsocketUrl("wss://a")],
    ],
    ids=repr,
)
def test_a_value_comes_back_whole(value: Any) -> None:
    decoded = back(value)
    assert decoded == value
    assert repr(decoded) == repr(value)
    assert getattr(decoded, "__dict__", None) == getattr(value, "__dict__", None)


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


def test_what_a_model_hides_is_not_stored_and_said_to_be_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Secretive(shown=1, key="sk-123456789")
    model._hidden = 2
    text = stored(model)
    decoded = back(model)
    assert "sk-123456789" not in text
    assert (decoded.shown, decoded.key, decoded._hidden) == (1, "", 0)
    assert type(decoded._lock) is type(model._lock)
    assert not decoded._lock.locked()
    said = [line for line in caplog.messages if "Secretive: not stored" in line]
    assert [("_hidden" in line, "key" in line, "_lock" in line) for line in said] == [
        (True, True, False)
    ]


def test_what_a_model_hides_is_stored_if_it_says_so() -> None:
    model = Trusted(shown=1, key="abc")
    model._hidden = 2
    assert (back(model).key, back(model)._hidden) == ("abc", 2)


def test_nothing_is_said_of_what_is_hidden_and_unchanged(caplog: pytest.LogCaptureFixture) -> None:
    assert back(Quiet(shown=1)).shown == 1
    assert caplog.messages == []


def test_what_a_model_computed_for_itself_is_not_in_the_way() -> None:
    model = Lazy(number=1)
    assert model.connection
    assert back(model).number == 1


def test_a_model_may_call_a_field_cls() -> None:
    assert back(Classifier(cls="spam")).cls == "spam"


def test_a_dataclass_keeps_what_is_added_to_it() -> None:
    computed = Computed(4)
    assert computed.handle
    found = decode(encode(computed))
    assert found == computed
    assert found.index == computed.index
    assert "handle" not in vars(found)
