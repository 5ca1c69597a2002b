"""Values as plain JSON.

What JSON has natively is stored as it is. Everything else is an object whose first key starts with
``$`` and names its type: a *form*. A dict of the user's with such a key is stored as a form itself,
so nothing that a user, a model or a server says can pass for one. Classes are stored by import
path; nothing is ever pickled. `decode`, the reverse, is in `reading`.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import AnyUrl, BaseModel

from crewai_dbos._classes import original_class
from crewai_dbos._stored import derived, files, forms, hidden, times
from crewai_dbos._stored.forms import Encoded, Json, is_text
from crewai_dbos._stored.reading import decode, member
from crewai_dbos._stored.type_paths import by_path, import_path, type_path
from crewai_dbos.errors import UnstorableValueError

__all__ = ["Encoded", "Json", "decode", "encode", "is_text"]

# Python refuses to read or write decimal integers of more than 4300 digits.
_LARGE_BITS = 10_000


def encode(value: Any, known: Iterable[type] = ()) -> Json:
    """The JSON form of `value`.

    Args:
        value: Scalars, containers, pydantic models, dataclasses, enums, dates, bytes, paths,
            URLs of pydantic.
        known: Classes that `decode` will be given too; only these may be unimportable.

    Raises:
        UnstorableValueError: `value` holds something without a JSON form.
    """
    try:
        return _Writer(known).written(value)
    except (UnstorableValueError, RuntimeError):  # also of a container that is being changed
        raise
    except Exception as error:  # of a property, a `__repr__`, ... of a class of the user's
        raise UnstorableValueError(
            f"A {type(value).__qualname__} can't be stored, as its own code failed "
            f"({type(error).__name__}: {error})"
        ) from error


class _Writer:
    """Writes one value.

    Args:
        known: Classes that may be unimportable.
    """

    def __init__(self, known: Iterable[type]) -> None:
        self._given = known
        self._depth = 0

    @cached_property
    def _known(self) -> Mapping[str, type]:
        """By path. Most values name no class, and this takes longer than to write them."""
        return by_path(self._given)

    def written(self, value: Any) -> Json:
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is str:
            return value if is_text(value) else {"$str": _b64(_surrogates(value))}
        if kind is int:
            return value if value.bit_length() < _LARGE_BITS else {"$int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"$float": repr(value)}
        if kind is Encoded:
            return value.data
        self._depth += 1
        if self._depth > forms.DEEPEST:
            raise UnstorableValueError(
                f"A value that is nested more than {forms.DEEPEST} deep, or is in itself, has no "
                "JSON form: keep it as a text or a file, or flatten it."
            )
        try:
            return self._of_pieces(value, kind)
        finally:
            self._depth -= 1

    def _of_pieces(self, value: Any, kind: type) -> Json:
        if kind is list:
            return [self.written(item) for item in value]
        if kind is dict:
            if all(type(key) is str and is_text(key) and not key.startswith("$") for key in value):
                return {key: self.written(item) for key, item in value.items()}
            return {"$map": [[self.written(k), self.written(v)] for k, v in value.items()]}
        if isinstance(value, Enum):
            return self._enum(value, kind)
        if isinstance(value, AnyUrl):
            forms.check_url(kind)
            return {"$url": self._path(kind), "value": str(value)}
        if isinstance(value, BaseModel):
            return self._model(files.without_content(value) if files.is_source(value) else value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            forms.check_data(kind)
            forms.check_made_of_fields(kind)
            kept = _kept_by(value)
            stored = {"$dataclass": self._path(kind), "fields": self.written(kept)}
            return _with_lacks(stored, [f.name for f in dataclasses.fields(value)], kept)
        if kind is datetime or kind is time:
            return times.written(value, self._path)
        if kind is ZoneInfo or kind is timezone:
            return times.written_zone(value)
        for tag, (classes, dump) in _TAGGED.items():
            if kind in classes:
                return {tag: self.written(dump(value))}
        if derived.is_derived(value):
            return self._derived(value)
        raise UnstorableValueError(
            f"{import_path(kind)} has no JSON form. Use plain data, a pydantic model or a "
            "dataclass defined at the top level of a module."
        )

    def _path(self, cls: type) -> str:
        return type_path(cls, self._known)

    def _enum(self, value: Enum, kind: Any) -> Json:
        stored = self.written(value._value_)  # its class may have a `value` of its own
        found = member(kind, decode(stored, self._given))
        # Python makes combinations of flags anew.
        if found is not value and not (isinstance(value, Flag) and found == value):
            raise UnstorableValueError(
                f"{import_path(kind)}.{value._name_} can't be told from its value when it is read. "
                "Give its members plain values, each another one."
            )
        return {"$enum": self._path(kind), "value": stored}

    def _model(self, value: BaseModel) -> Json:
        cls: Any = original_class(type(value))
        forms.check_data(cls)
        found = {name: value.__dict__[name] for name in cls.model_fields if name in value.__dict__}
        private = dict(value.__pydantic_private__ or {})
        left_out = hidden.names(cls)
        if left_out:
            self._tell_of_hidden(cls, {**found, **private}, left_out)
        stored = {
            "$model": self._path(cls),
            "fields": self.written({n: v for n, v in found.items() if n not in left_out}),
            "set": sorted(value.model_fields_set - left_out),
        }
        _with_lacks(stored, cls.model_fields.keys() - left_out, found)
        if value.__pydantic_extra__:
            stored["extra"] = self.written(dict(value.__pydantic_extra__))
        kept = {}
        for name in private.keys() - left_out:
            # A lock or a client in a private attribute starts anew, as after a restart.
            with contextlib.suppress(UnstorableValueError):
                kept[name] = self.written(private[name])
        if kept:
            stored["private"] = dict(sorted(kept.items()))
        return stored

    def _tell_of_hidden(self, cls: Any, made_of: dict[str, Any], names: Iterable[str]) -> None:
        """Say that these are not stored, unless they are what a new object has, or no data."""
        declared = {**cls.model_fields, **cls.__private_attributes__}
        told = []
        for name in names:
            with contextlib.suppress(UnstorableValueError):
                if name in made_of and made_of[name] != declared[name].get_default():
                    self.written(made_of[name])
                    told.append(name)
        if told:
            hidden.tell_of(cls, told)

    def _derived(self, value: Any) -> Json:
        cls = type(value)
        reason = "its class can't be made again from data"
        if (pieces := derived.pieces(value)) is not None:
            try:
                forms.check_data(cls)
                args = [self._arg(arg) for arg in pieces.pop("args")]
                encoded = {name: self.written(item) for name, item in pieces.items()}
                return {"$derived": self._path(cls), "args": args, **encoded}
            except UnstorableValueError as error:
                reason = str(error).rstrip(".")
        stored = self.written(derived.plain(value))
        derived.tell_that_it_becomes_plain(cls, reason)
        return stored

    def _arg(self, value: Any) -> Json:
        # The only class that is a value: what a defaultdict makes.
        if not isinstance(value, type):
            return self.written(value)
        forms.check_factory(value)
        return {"$class": self._path(value)}


def _kept_by(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, and what its ``__post_init__`` or a user has added to them."""
    # One that no constructor sets may not be there yet.
    names = [f.name for f in dataclasses.fields(value)]
    fields = {name: getattr(value, name) for name in names if hasattr(value, name)}
    added = {
        name: item
        for name, item in forms.own_attributes(value).items()
        if not isinstance(getattr(type(value), name, None), cached_property)
    }
    return {**added, **fields}


def _with_lacks(stored: dict[str, Json], fields: Iterable[str], found: Iterable[str]) -> Json:
    """`stored`, with the fields that have no value: their class has not gained them since."""
    if lacks := sorted(set(fields) - set(found)):
        stored["lacks"] = lacks
    return stored


def _seconds(delta: timedelta) -> list[int]:
    return [delta.days, delta.seconds, delta.microseconds]


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _surrogates(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


_TAGGED: dict[str, tuple[tuple[type, ...], Callable[[Any], Any]]] = {
    "$date": ((date,), date.isoformat),
    "$timedelta": ((timedelta,), _seconds),
    "$decimal": ((Decimal,), str),
    "$uuid": ((UUID,), str),
    "$path": ((Path, type(Path())), str),
    "$bytes": ((bytes,), _b64),
    "$tuple": ((tuple,), list),
    "$frozenset": ((frozenset,), lambda s: sorted(s, key=repr)),
    "$set": ((set,), lambda s: sorted(s, key=repr)),
}
