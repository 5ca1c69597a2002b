"""What can be seen of a value without a JSON form: whether a method has changed it."""

from __future__ import annotations

import contextlib
import functools
import sys
from importlib import metadata
from typing import Any

from crewai_dbos._stored import codec
from crewai_dbos.errors import UnstorableValueError

_OPAQUE = object()


def visible_data(value: Any, known: tuple[type, ...], own: type) -> str:
    """The data in `value`, also in objects of it that hold nothing else.

    An object of a library is taken as a whole: a client changes whenever it is used, and a method
    that uses one need not be run again for that.

    Args:
        value: An object, or a container of objects.
        known: Classes that need not be importable.
        own: A class of the user's: what is in its package is no library.
    """
    if _is_of_a_library(type(value), own):
        return ""
    seen = {id(value)}
    try:
        found = {name: _data(item, known, seen) for name, item in _inside(value)}
    except RuntimeError:  # it refers to itself without end, or is being changed
        return ""
    return repr({name: data for name, data in found.items() if data is not _OPAQUE})


def _data(value: Any, known: tuple[type, ...], seen: set[int]) -> Any:
    with contextlib.suppress(UnstorableValueError):
        return codec.encode(value, known)
    if id(value) in seen:
        return ...
    seen.add(id(value))
    found = {}
    for name, item in _inside(value):
        found[name] = _data(item, known, seen)
        if found[name] is _OPAQUE:
            return _OPAQUE
    return {type(value).__qualname__: found} if found else _OPAQUE


def _is_of_a_library(cls: type, own: type) -> bool:
    package, of_the_user = (each.__module__.partition(".")[0] for each in (cls, own))
    if package in (of_the_user, "builtins"):
        return False
    return package in sys.stdlib_module_names or package in _installed()


@functools.cache
def _installed() -> frozenset[str]:
    return frozenset(metadata.packages_distributions())


def _inside(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(repr(key), item) for key, item in list(dict.items(value))]
    if isinstance(value, (list, tuple)):
        return [(str(at), item) for at, item in enumerate(value)]
    if isinstance(value, type) or type(value).__module__ == "builtins":
        return []  # a class, a module, a function
    return list(getattr(value, "__dict__", {}).items())
