"""Classes made from the user's, with some methods overridden.

An object of the user's becomes durable by a change of its class, so that it passes every
``isinstance`` and keeps all else that it can do.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")


def overridden(overrides: type, cls: type[T], body: Mapping[str, Any] | None = None) -> type[T]:
    """A class named as `cls` that is one, with the methods of `overrides` before its own.

    Args:
        overrides: A mixin.
        cls: The user's class, or one of crewAI's.
        body: More attributes.
    """
    attributes = {"__module__": cls.__module__, **(body or {})}
    if issubclass(cls, BaseModel):
        # Its instances are made by others, so nothing is validated with it: that takes 20 ms.
        attributes["model_config"] = ConfigDict(defer_build=True)
    made: type[T] = type(cls.__name__, (overrides, cls), attributes)
    return made


def durable_class(overrides: type, cls: type[T]) -> type[T]:
    """As `overridden`, one class for each pair."""
    made: type[T] = _cached(overrides, cls)
    return made


_cached: Any = cache(overridden)
