"""Models that no other process can import."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, Field

from codec.values import Animal, Dog, back, same
from crewai_dbos._stored.codec import decode, encode
from crewai_dbos.errors import UnstorableValueError


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


def test_plain_data_does_not_ask_which_classes_are_known() -> None:
    """A flow knows the class of its state, and writes each of its fields on its own."""

    def known() -> Iterator[type]:
        raise AssertionError("asked")
        yield

    data = {"texts": ["a", "b"], "number": 1, "pair": (1, 2)}
    assert decode(encode(data, known()), known()) == data
