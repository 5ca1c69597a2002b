"""Containers and scalars of the user's own classes, taken apart and put together again.

How is what the class itself says to `copy`, as far as that is data: Counter, OrderedDict,
defaultdict, deque and named tuples of the standard library, or a ``class Money(float)``.
"""

from __future__ import annotations

import copyreg
import logging
from collections import deque
from typing import Any

logger = logging.getLogger("crewai_dbos")

_IMMUTABLE = (str, int, float, bytes, tuple, frozenset)
_BASES = (*_IMMUTABLE, list, dict, set, bytearray, deque)

_told: set[str] = set()


def is_derived(value: Any) -> bool:
    """Whether this module is for `value`."""
    return isinstance(value, _BASES)


def parts(value: Any) -> dict[str, Any] | None:
    """What `value` is made of, or None where its class can't be made again from data.

    Returns:
        ``args`` for its class, ``items`` and ``pairs`` that are put in, ``state`` of its own.
    """
    try:
        found = _taken_apart(value)
        if type(together(type(value), found)) is type(value):
            return found
    except Exception:  # of the class itself, which may do anything here
        pass
    return None


def _taken_apart(value: Any) -> dict[str, Any]:
    made_by, args, *rest = value.__reduce_ex__(2)
    state, items, pairs = (*rest, None, None, None)[:3]
    if made_by is copyreg.__newobj__:  # type: ignore[attr-defined]
        made_by, *args = args
    if made_by is not type(value) or not isinstance(state or {}, dict):
        raise TypeError(f"{made_by} makes a {type(value)}")
    if isinstance(value, (*_IMMUTABLE, set)):
        # A constructor of the user's own may want something else.
        args = [plain(value)]
    found = {
        "args": list(args),
        "items": list(items or ()),
        "pairs": list(pairs or ()),
        "state": state or {},
    }
    return {name: part for name, part in found.items() if part or name == "args"}


def together(cls: Any, made_of: dict[str, Any]) -> Any:
    """The reverse of `parts`.

    Raises:
        TypeError: `cls` is not derived from what this module is for.
    """
    base = _base(cls)
    if base is None:
        raise TypeError(f"{cls.__qualname__} is no container and no scalar")
    args = made_of["args"]
    if base in _IMMUTABLE:
        value: Any = base.__new__(cls, *args)
    elif base is set:
        value = cls.__new__(cls)
        value.update(*args)
    elif args:
        value = cls(*args)
    else:
        value = cls.__new__(cls)
    for item in made_of.get("items", ()):
        value.append(item)
    for key, item in made_of.get("pairs", ()):
        value[key] = item
    if state := made_of.get("state"):
        value.__dict__.update(state)
    return value


def plain(value: Any) -> Any:
    """`value` as the built-in class that its own derives from."""
    base: Any = _base(type(value))
    return list(value) if base is deque else base(value)


def tell_that_it_becomes_plain(cls: type, reason: str) -> None:
    """Say once for each class that its values come back as the built-in one."""
    name = f"{cls.__module__}.{cls.__qualname__}"
    base: Any = _base(cls)
    # The views that crewAI gives of a state are not told of: plain is what they show.
    if name in _told or cls.__module__.partition(".")[0] in ("crewai", "crewai_dbos"):
        return
    _told.add(name)
    logger.warning(
        "A %s that is recorded comes back from the journal as a plain %s: %s.",
        name,
        base.__name__,
        reason,
    )


def _base(cls: type) -> type | None:
    return next((base for base in _BASES if issubclass(cls, base)), None)
