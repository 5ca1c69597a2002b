"""Objects that stand in several places of what a flow keeps.

As JSON each place has a copy. So the places are stored beside it, and what they hold is made one
object again: changed in one of them, it is changed in all.

A path is the name of a field and the ways into what it holds: keys, positions and attributes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from crewai_dbos._flows.state.fields import SCALARS, own_dict
from crewai_dbos._stored import codec
from crewai_dbos.errors import UnstorableValueError

Path = list[Any]
Pair = list[Path]


def shared(fields: Iterable[tuple[str, Any]]) -> list[Pair]:
    """Each place that holds an object which one before it holds, too, and the first such place.

    Args:
        fields: Names and values.
    """
    first: dict[int, Path] = {}
    pairs: list[Pair] = []

    def walk(value: Any, path: Path, settable: bool) -> None:
        if id(value) in first:
            if settable:
                pairs.append([path, first[id(value)]])
            return
        if _is_mutable(value):
            first[id(value)] = path
        settable = not isinstance(value, tuple)
        for at, item in _components(value):
            if not isinstance(item, SCALARS) and _is_step(at):
                walk(item, [*path, at], settable)

    try:
        for name, value in fields:
            if type(value) not in SCALARS:
                walk(value, [name], True)
    except RecursionError:  # such a value has no JSON form either
        return []
    return pairs


def find(value: Any, container: Any, depth: int = 3) -> list[Any] | None:
    """The way from `container` to `value`, which is it or in it."""
    if container is value:
        return []
    for at, item in _components(container) if depth else ():
        if isinstance(item, SCALARS) or not _is_step(at):
            continue
        if (inside := find(value, item, depth - 1)) is not None:
            return [at, *inside]
    return None


def follow(path: Path, found: Any) -> Any:
    """The reverse of `find`.

    Raises:
        LookupError, AttributeError: There is nothing.
    """
    for at in path:
        found = getattr(found, at) if _has_fields(found) else found[at]
    return found


def put(holder: Any, at: Any, value: Any) -> None:
    """Have `holder` hold `value` there."""
    if isinstance(holder, BaseModel):
        own_dict(holder)[at] = value
    elif _has_fields(holder):
        object.__setattr__(holder, at, value)
    elif isinstance(holder, dict):
        dict.__setitem__(holder, at, value)
    else:
        holder[at] = value


def _is_mutable(value: Any) -> bool:
    return isinstance(value, (dict, list, set)) or _has_fields(value)


def _has_fields(value: Any) -> bool:
    return isinstance(value, BaseModel) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type)
    )


def _is_step(key: Any) -> bool:
    """Whether `key` of a dict can be stored in a path: asked of few, as an odd one is encoded."""
    if type(key) in (str, int):
        return True
    try:
        codec.encode(key)
    except (UnstorableValueError, RecursionError):
        return False
    return True


def _components(container: Any) -> list[tuple[Any, Any]]:
    if isinstance(container, dict):
        return list(dict.items(container))
    if isinstance(container, (list, tuple)):
        return list(enumerate(container))
    if isinstance(container, BaseModel):
        return list(own_dict(container).items())
    if _has_fields(container):
        names = [field.name for field in dataclasses.fields(container)]
        return [(name, getattr(container, name)) for name in names if hasattr(container, name)]
    return []
