"""Generic models that are given their arguments where they are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from pydantic import BaseModel

T = TypeVar("T")
U = TypeVar("U")


class Item(BaseModel):
    name: str

    class Inner(BaseModel):
        size: int


class Page(BaseModel, Generic[T]):
    items: list[T] = []
    next: int | None = None


class Pair(BaseModel, Generic[T, U]):
    one: T
    two: U


NAMED = Page[Sequence[int]]
globals()["Page[Sequence[int]]"] = NAMED
