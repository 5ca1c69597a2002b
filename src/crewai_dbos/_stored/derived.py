"""Containers and scalars of the user's own classes, taken apart and put together again.

What it is made of is what the class itself says to `copy`, as far as that is data: Counter,
OrderedDict, defaultdict, deque and named tuples of the standard library, or a
``class Money(float)``. It is put together by the built-in class alone, so that a row of a database
can't have code of the class run.
"""

from __future__ import annotations

import copyreg
import logging
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from crewai_dbos._stored import changed, forms

logger = logging.getLogger("crewai_dbos")

_IMMUTABLE = (str, int, float, bytes, tuple, frozenset)
# A datetime is a date, so it stands before it.
_SCALARS = (datetime, date, time, timedelta, Decimal, UUID, Path)
_BASES = (*_IMMUTABLE, *_SCALARS, list, dict, set, bytearray, deque)

_told: set[str] = set()
_MOST_TOLD = 1_000


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
    if isinstance(value, _SCALARS):
        return _scalar_taken_apart(value)
    made_by, args, *rest = value.__reduce_ex__(2)
    state, items, pairs = (*rest, None, None, None)[:3]
    if made_by is copyreg.__newobj__:  # type: ignore[attr-defined]
        made_by, *args = args
    if made_by is not type(value) or not isinstance(state or {}, dict):
        raise TypeError(f"{made_by} makes a {type(value)}")
    if isinstance(value, (*_IMMUTABLE, set)):
        # A constructor of the user's own may want something else.
        args = [plain(value)]
    if _takes_itself_apart(type(value)):
        if isinstance(value, dict):
            pairs = _pairs(value)
        elif isinstance(value, (list, deque)):
            items = plain(value)
    if isinstance(value, Counter):
        args, pairs = [dict(_pairs(value))], ()
    if state:
        state = forms.without_python_s_own(type(value), state)
    found = {
        "args": list(args),
        "items": list(items or ()),
        "pairs": list(pairs or ()),
        "state": state or {},
    }
    return {name: item for name, item in found.items() if item or name == "args"}


def _scalar_taken_apart(value: Any) -> dict[str, Any]:
    # What their own reduce gives lacks the attributes of the object.
    base: Any = _base(type(value))
    own = type(value).__mro__[: type(value).__mro__.index(_builtin(base))]
    if any(set(_slots(cls)) - {"__dict__", "__weakref__"} for cls in own):
        raise TypeError("what is in its slots is not data")
    state = forms.own_attributes(value)
    return {"args": [plain(value)], **({"state": state} if state else {})}


def _takes_itself_apart(cls: type) -> bool:
    """Whether what `cls` says to `copy` is what the built-in class says."""
    names = ("__reduce__", "__reduce_ex__")
    base: Any = _kind_of_dict(cls) if issubclass(cls, dict) else _base(cls)
    return all(getattr(cls, name) is getattr(base, name) for name in names)


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    return list(_kind_of_dict(type(value)).items(value))


def _slots(cls: type) -> tuple[str, ...]:
    slots = vars(cls).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _builtin(base: type) -> type:
    """The class that values of `base` have: a path is one of this machine's."""
    return type(Path()) if base is Path and sys.version_info < (3, 12) else base


def is_plain_scalar(value: Any) -> bool:
    """Whether `value` is of a built-in class, and one that `pieces` takes for an own class."""
    return type(value) in _SCALARS or type(value) is type(Path())


def together(cls: Any, made_of: dict[str, Any]) -> Any:
    """The reverse of `pieces`, by what the built-in class can do: nothing of `cls` is called.

    Raises:
        TypeError: `cls` is not derived from what this module is for, or is not made like that.
    """
    base = _base(cls)
    if base is None:
        raise TypeError(f"{cls.__qualname__} is no container and no scalar")
    args = made_of["args"]
    if base in _SCALARS:
        value = _scalar(cls, base, _only(args, _builtin(base)))
    else:
        value = _of_one(cls, base, args) if base in _IMMUTABLE else _MADE_BY[base](cls, args)
    extend = getattr(base, "extend", None)
    if items := made_of.get("items"):
        extend(value, items)  # type: ignore[misc]
    for key, item in made_of.get("pairs", ()):
        _kind_of_dict(cls).__setitem__(value, key, item)
    if state := made_of.get("state"):
        object.__getattribute__(value, "__dict__").update(state)
    return value


def _scalar(cls: Any, base: Any, of: Any) -> Any:
    if base is UUID:
        made = object.__new__(cls)
        for name in ("int", "is_safe"):
            vars(UUID)[name].__set__(made, getattr(of, name))
        return made
    if base is Path:
        made = Path.__new__(cls, str(of))
        if sys.version_info >= (3, 12):
            Path.__init__(made, str(of))
        return made
    if base is Decimal:
        return Decimal.__new__(cls, of)
    parts = [getattr(of, name) for name in _PARTS[base]]
    return base.__new__(cls, *parts, **({"fold": of.fold} if hasattr(of, "fold") else {}))


_TIME = ("hour", "minute", "second", "microsecond", "tzinfo")
_DATE = ("year", "month", "day")
_PARTS: dict[type, tuple[str, ...]] = {
    datetime: (*_DATE, *_TIME),
    date: _DATE,
    time: _TIME,
    timedelta: ("days", "seconds", "microseconds"),
}


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
    if base is UUID:
        return UUID(int=value.int, is_safe=value.is_safe)
    if base in _PARTS:
        # What the class itself has under these names may be something else.
        parts = [vars(base)[name].__get__(value) for name in _PARTS[base] if name in vars(base)]
        if base is datetime:
            parts = [*(vars(date)[name].__get__(value) for name in _DATE), *parts]
        return base(*parts, **({"fold": value.fold} if hasattr(base, "fold") else {}))
    return _PLAIN[base](value) if base in _PLAIN else base(value)


# What the class itself has under these names may be something else, too.
_PLAIN: dict[Any, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    bytearray: lambda value: bytearray.__getitem__(value, slice(None)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    list: lambda value: list(list.__iter__(value)),
    set: lambda value: set(set.__iter__(value)),
    deque: lambda value: list(deque.__iter__(value)),
    dict: lambda value: dict(_pairs(value)),
}


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


def tell_that_it_became_plain(path: str, value: Any, reason: str) -> None:
    """The same for what has come back, as its class is not here."""
    if path not in _told and len(_told) < _MOST_TOLD:
        _told.add(path)
        logger.warning(
            "A %r that is recorded has come back from the journal as a plain %s: %s",
            path,
            type(value).__name__,
            reason,
        )


def _base(cls: type) -> type | None:
    return next((base for base in _BASES if issubclass(cls, base)), None)
