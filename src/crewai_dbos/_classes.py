"""Classes made from the user's, with some methods overridden.

An object of the user's becomes durable by a change of its class, so that it passes every
``isinstance`` and keeps all else that it can do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")

ORIGINAL = "__crewai_dbos_original__"
"""Where a class made here has the class that it was made from."""


def overridden(overrides: type, cls: type[T], body: Mapping[str, Any] | None = None) -> type[T]:
    """A class named as `cls` that is one, with the methods of `overrides` before its own.

    Args:
        overrides: A mixin.
        cls: The user's class, or one of crewAI's.
        body: More attributes.
    """
    attributes = {"__module__": cls.__module__, ORIGINAL: cls, **(body or {})}
    if issubclass(cls, BaseModel):
        # Its instances are made by others, so nothing is validated with it: that takes 20 ms.
        attributes["model_config"] = ConfigDict(defer_build=True)
    made: type[T] = type(cls.__name__, (overrides, cls), attributes)
    return made


def durable_class(overrides: type, cls: type[T]) -> type[T]:
    """As `overridden`, one class for each pair, as long as there is `cls`."""
    return kept_with(cls, overrides, lambda: overridden(overrides, cls))


def kept_with(cls: type, key: Any, make: Callable[[], type[T]]) -> type[T]:
    """What `make` has made for `key`, once; a class of a function goes when nobody has it."""
    with _making:
        made = cls.__dict__.get(_MADE)
        if made is None:
            made = {}
            type.__setattr__(cls, _MADE, made)
        if key not in made:
            made[key] = make()
        found: type[T] = made[key]
        return found


_MADE = "__crewai_dbos_made__"
_making = threading.RLock()


def original_class(cls: type) -> type:
    """The user's class that `cls` was made from, or `cls`."""
    found: type = cls.__dict__.get(ORIGINAL, cls)
    return found


def is_made_here(cls: type) -> bool:
    """Whether `cls` is, or derives from, a class made here."""
    return any(ORIGINAL in base.__dict__ for base in cls.__mro__)
