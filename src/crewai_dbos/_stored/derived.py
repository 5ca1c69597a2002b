"""Containers and scalars of the user's own classes, taken apart and put together again.

What it is made of is what the class itself says to `copy`, as far as that is data: Counter,
OrderedDict, defaultdict, deque and named tuples of the standard library, or a
``class Money(float)``. It is put together by the built-in class alone, so that a row of a database
can't have code of the class run.
"""

from __future__ import annotations

import copyreg
import logging
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

from crewai_dbos._stored import changed

logger = logging.getLogger("crewai_dbos")

_IMMUTABLE = (str, int, float, bytes, tuple, frozenset)
_BASES = (*_IMMUTABLE, list, dict, set, bytearray, deque)

_told: set[str] = set()


def is_derived(value: Any) -> bool:
    """Whether this module is for `value`."""
    return isinstance(value, _BASES)


def pieces(value: Any) -> dict[str, Any] | None:
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
    return {name: item for name, item in found.items() if item or name == "args"}


def together(cls: Any, made_of: dict[str, Any]) -> Any:
    """The reverse of `pieces`, by what the built-in class can do: nothing of `cls` is called.

    Raises:
        TypeError: `cls` is not derived from what this module is for, or is not made like that.
    """
    base = _base(cls)
    if base is None:
        raise TypeError(f"{cls.__qualname__} is no container and no scalar")
    args = made_of["args"]
    value = _of_one(cls, base, args) if base in _IMMUTABLE else _MADE_BY[base](cls, args)
    extend = getattr(base, "extend", None)
    if items := made_of.get("items"):
        extend(value, items)  # type: ignore[misc]
    for key, item in made_of.get("pairs", ()):
        _kind_of_dict(cls).__setitem__(value, key, item)
    if state := made_of.get("state"):
        value.__dict__.update(state)
    return value


def _of_one(cls: Any, base: Any, args: list[Any]) -> Any:
    value = _only(args, base)
    return base.__new__(cls, changed.of_tuple(cls, value) if base is tuple else value)


def _list(cls: Any, args: list[Any]) -> Any:
    _none(args)
    return list.__new__(cls)


def _set(cls: Any, args: list[Any]) -> Any:
    value: Any = set.__new__(cls)
    set.update(value, _only(args, set))
    return value


def _bytearray(cls: Any, args: list[Any]) -> Any:
    value: Any = bytearray.__new__(cls)
    if args:
        text, encoding = args
        if type(text) is not str or encoding != "latin-1":
            raise TypeError("a bytearray is made of a text in latin-1")
        bytearray.extend(value, text.encode(encoding))
    return value


def _deque(cls: Any, args: list[Any]) -> Any:
    value: Any = deque.__new__(cls)
    content, longest = args or ((), None)
    if content != () or type(longest) not in (int, type(None)):
        raise TypeError("a deque is made empty")
    deque.__init__(value, (), longest)
    return value


def _dict(cls: Any, args: list[Any]) -> Any:
    kind = _kind_of_dict(cls)
    value: Any = kind.__new__(cls)
    if kind is defaultdict:
        (factory,) = args or (None,)
        if factory is not None and not isinstance(factory, type):
            raise TypeError("a defaultdict is made with a class")
        defaultdict.__init__(value, factory)
    elif kind is Counter:
        for key, count in (_only(args, dict) if args else {}).items():
            dict.__setitem__(value, key, count)
    else:
        _none(args)
    return value


def _kind_of_dict(cls: type) -> Any:
    kinds = (OrderedDict, defaultdict, Counter)
    return next((kind for kind in kinds if issubclass(cls, kind)), dict)


def _only(args: list[Any], kind: type) -> Any:
    if len(args) != 1 or type(args[0]) is not kind:
        raise TypeError(f"a {kind.__name__} is made of one")
    return args[0]


def _none(args: list[Any]) -> None:
    if args:
        raise TypeError("made without arguments")


_MADE_BY: dict[type, Callable[[Any, list[Any]], Any]] = {
    list: _list,
    dict: _dict,
    set: _set,
    bytearray: _bytearray,
    deque: _deque,
}


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
