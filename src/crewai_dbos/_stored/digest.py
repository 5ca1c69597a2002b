"""Hex digits that stand for a value: in names of calls, and for what a call was asked.

As names are stored, what stands for a value never changes. Names of calls have 128 bits, so that
nobody finds two arguments with one name. Until entries had version 2, they had 32.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple


def short(value: Any) -> str:
    """Eight hex digits that tell `value` from what else the developer may have written."""
    return _hashed(value, old=True)[:8]


def salted(digested: str, salt: str) -> str:
    """16 hex digits that stand for the value of a digest, and confirm no guess at another's."""
    return hashlib.sha256(f"{salt}:{digested}".encode()).hexdigest()[:16]


def keyed(digested: str, key: bytes) -> str:
    """64 hex digits for a digest that only those can make who have the key."""
    return hmac.new(key, digested.encode(), hashlib.sha256).hexdigest()


def digest(value: Any) -> str:
    """64 hex digits that stand for `value`; the same in every process."""
    return _hashed(value, old=False)


def digests(value: Any) -> tuple[str, str]:
    """`digest`, and the eight digits that stood for `value` in a run of version 1."""
    text = _whole(value, old=False)
    found = hashlib.sha256(text.written).hexdigest()
    return found, (_hashed(value, old=True) if text.may_differ else found)[:8]


def _hashed(value: Any, *, old: bool) -> str:
    return hashlib.sha256(_whole(value, old=old).written).hexdigest()


class _Text(NamedTuple):
    """What is hashed.

    Attributes:
        may_differ: Whether it may have been another text in a run of version 1.
    """

    written: bytes
    may_differ: bool


def _whole(value: Any, *, old: bool) -> _Text:
    try:
        return _listed(value, old) if type(value) is list else _of(_shape(value, old))
    except RecursionError:
        return _Text(type(value).__qualname__.encode(), False)


def _listed(items: list[Any], old: bool) -> _Text:
    """The text of a list's shape. A conversation is sent again and again, one message longer."""
    texts = [_item(item, old) for item in items]
    written = b"[" + b", ".join([text.written for text in texts]) + b"]"
    return _Text(written, any(text.may_differ for text in texts))


def _item(item: Any, old: bool) -> _Text:
    if type(item) is dict:
        try:
            return _message(tuple(item.items()))
        except TypeError:  # it is no message of plain texts, or a long one
            pass
    return _of(_shape(item, old))


# As many and as long as leave the memory of a process as it is.
_REMEMBERED = 64_000


@lru_cache(maxsize=256)
def _message(items: tuple[tuple[str, str], ...]) -> _Text:
    """
    Raises:
        TypeError: It is not to be remembered.
    """
    if not all(type(key) is type(text) is str for key, text in items):
        raise TypeError("not of texts alone")
    if sum(len(text) for _, text in items) >= _REMEMBERED:
        raise TypeError("too long")
    return _of(dict(items))


def _of(shape: Any) -> _Text:
    written = _text(shape).encode()
    return _Text(written, b"0x" in written or b'"bytes"' in written)


def _shape(value: Any, old: bool) -> Any:
    """What stays the same of a value between processes, as JSON data: never its address."""
    if isinstance(value, int) and value.bit_length() > _LONG:
        return hex(value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, SimpleNamespace):
        return _mapping(vars(value), old)
    if isinstance(value, Mapping):
        return _mapping(value, old)
    if isinstance(value, (list, tuple, deque)):
        return [_shape(item, old) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_shape(item, old) for item in value), key=_text)
    if isinstance(value, type):
        return value.__qualname__
    if isinstance(value, (bytes, bytearray)):
        hashed = hashlib.sha256(value).hexdigest()
        return hashed if old else ["bytes", hashed]
    # Asked of the class: a mock has any method.
    dump = getattr(type(value), "model_dump", None)
    if callable(dump):
        try:
            return _shape(dump(value), old)
        except Exception:
            return type(value).__qualname__
    if is_dataclass(value):
        # One that no constructor sets may not be there yet.
        names = [f.name for f in fields(value) if hasattr(value, f.name)]
        return {name: _shape(getattr(value, name), old) for name in names}
    return _object(value, old)


# Python does not write integers of more than 4300 digits in decimal.
_LONG = 10_000


def _mapping(value: Mapping[Any, Any], old: bool) -> Any:
    if all(isinstance(key, str) for key in value):
        return {str(key): _shape(item, old) for key, item in value.items()}
    return sorted(([_shape(key, old), _shape(item, old)] for key, item in value.items()), key=_text)


def _object(value: Any, old: bool) -> Any:
    """A date, a URL, a number of some library: its text, if its class has one of its own."""
    cls = type(value)
    if "__str__" not in _defined(cls) and "__repr__" not in _defined(cls):
        return cls.__qualname__
    try:
        # A run of version 1 takes everything that looks like an address for one.
        address = r"\b0x[0-9a-fA-F]+" if old else r"(?<= at )0x[0-9a-fA-F]+(?=>|$)"
        return [cls.__qualname__, re.sub(address, "0x", str(value))]
    except Exception:
        return cls.__qualname__


def without_text(value: Any) -> list[Any]:
    """Objects in `value` of which a digest has no more than the class.

    Two of one class have one digest, whatever is in them. Functions are not among them.
    """
    return list(_shapeless(value, 0))


def _shapeless(value: Any, depth: int) -> Iterator[Any]:
    if depth > _DEEP or isinstance(value, (str, int, float, bytes, bytearray, type)):
        return
    inside: Iterable[Any] = ()
    if isinstance(value, SimpleNamespace):
        inside = vars(value).values()
    elif isinstance(value, Mapping):
        inside = (each for item in value.items() for each in item)
    elif isinstance(value, (list, tuple, deque, set, frozenset)):
        inside = value
    elif is_dataclass(value):
        inside = (getattr(value, each.name, None) for each in fields(value))
    elif not (
        value is None or callable(value) or callable(getattr(type(value), "model_dump", None))
    ):
        shape = _object(value, old=False)
        if isinstance(shape, str) or shape[1] != str(value):
            yield value
    for each in inside:
        yield from _shapeless(each, depth + 1)


_DEEP = 20


def _defined(cls: type) -> set[str]:
    return {name for base in cls.__mro__[:-1] for name in vars(base)}


def _text(shape: Any) -> str:
    return json.dumps(shape, sort_keys=True)
