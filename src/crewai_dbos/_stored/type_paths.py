"""Classes by their import path, as they are stored."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import BaseModel

from crewai_dbos import _errors, errors
from crewai_dbos._stored import generics, main_module, modules
from crewai_dbos.errors import UnstorableValueError

T = TypeVar("T")

_LONGEST = 1_000
"""Characters of an import path."""

_STORED_AS = {errors.__name__: _errors.__name__}
"""Modules whose classes are stored under the name that the module had at first."""


def import_path(cls: type) -> str:
    """``module:QualifiedName`` of a class, whether or not it can be imported."""
    module = main_module.stored_name(cls.__module__)
    return f"{_STORED_AS.get(module, module)}:{cls.__qualname__}"


def by_path(known: Iterable[type]) -> dict[str, type]:
    """`known` and the classes that their fields are declared with, by import path."""
    found: dict[str, type] = {}
    waiting: list[Any] = list(known)
    while waiting:
        item = waiting.pop()
        waiting.extend(get_args(item))
        if not isinstance(item, type) or import_path(item) in found:
            continue
        found[import_path(item)] = item
        if generics.is_generic(item):
            with contextlib.suppress(UnstorableValueError):
                found[generics.path(item, type_path)] = item
        if issubclass(item, BaseModel):
            waiting.extend(item.__mro__[1:-1])
            waiting.extend(field.annotation for field in item.model_fields.values())
        elif dataclasses.is_dataclass(item):
            waiting.extend(_annotations(item))
    return found


def _annotations(cls: type) -> Iterable[Any]:
    # What a function's own class names as text may be out of reach.
    with contextlib.suppress(NameError):
        return get_type_hints(cls).values()
    return ()


def type_path(cls: type, known: Mapping[str, type] = MappingProxyType({})) -> str:
    """``module:QualifiedName`` of a class that another process can import, or is given.

    A generic model has its arguments with it: ``app:Page[app:Item]``.

    Args:
        cls: The class.
        known: Classes that whoever reads the path is given too, by path.

    Raises:
        UnstorableValueError: The class is defined inside a function or under another name.
    """
    path = import_path(cls)
    if generics.is_generic(cls) and known.get(path) is not cls:
        try:
            return generics.path(cls, type_path)
        except UnstorableValueError:
            if not _is_importable(cls):
                raise
            return path  # the name that it has as a variable of its module
    if known.get(path) is not cls and not _is_importable(cls):
        raise UnstorableValueError(
            f"{path} can't be imported by another process. Define it at the top level of a "
            "module, under its own name."
        )
    return path


def load_type(
    path: str, base: type[T], known: Mapping[str, type] = MappingProxyType({})
) -> type[T]:
    """The class at ``module:QualifiedName``. Looking it up runs no code of that module.

    Args:
        path: Where it is.
        base: What it must derive from.
        known: Classes that are not looked up, by path.

    Raises:
        UnstorableValueError: It is not there, its module may not be imported, or it is another
            class.
    """
    try:
        found = known[path] if path in known else _resolve(path)
    except (ImportError, LookupError, UnstorableValueError) as error:
        raise UnstorableValueError(
            f"The journal names the class {path}, which can't be found here ({_reason(error)}). "
            "Put it back, or leave an alias under the old name."
        ) from error
    if not (_is_class(found) and issubclass(found, base)):
        raise UnstorableValueError(f"{path} is not a {base.__name__}")
    return found


def _is_importable(cls: type) -> bool:
    module, _, qualname = import_path(cls).partition(":")
    try:
        # The module that is imported under the name, and the program itself if it is stored so.
        places = (sys.modules.get(module), main_module.loaded(module))
        return any(_inside(place, qualname) is cls for place in places if place is not None)
    except LookupError:
        return False


def _resolve(path: str) -> Any:
    if not isinstance(path, str) or len(path) > _LONGEST:
        raise UnstorableValueError("a class is named by a text")
    if generics.is_path(path):
        return generics.load(path, _resolve, type_path)
    module, _, qualname = path.partition(":")
    try:
        return _inside(modules.module(module), qualname)
    except LookupError:
        # The program itself, which had no other name then or was stored by an earlier version.
        found = modules.of_definitions() if main_module.is_main(module) else []
        for place in found:
            with contextlib.suppress(LookupError):
                return _inside(place, qualname)
        raise


# Not by getattr: a module or a class may do anything when it is asked for a name.


def _inside(place: Any, qualname: str) -> Any:
    for name in qualname.split("."):
        if name not in vars(place) or not _is_class(vars(place)[name]):
            raise LookupError(f"{place.__name__} has no class {name!r}")
        place = vars(place)[name]
    return place


def _is_class(found: Any) -> bool:
    # isinstance would ask the object, and a lazy proxy imports what it stands for to answer.
    return issubclass(type(found), type)


def _reason(error: Exception) -> str:
    return str(error.args[0] if isinstance(error, LookupError) and error.args else error)
