"""JSON that `codec.encode` has written, as values again.

A row of a database is data, whoever wrote it. Reading one builds only what `codec` writes: a class
has to be of the kind that its form says, comes from a module that may be used (`modules`), and gets
its fields set. No code of the class is run for that, and nothing is imported, opened or called that
a row names.
"""

from __future__ import annotations

import base64
import enum
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import date, timedelta, timezone
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from types import MemberDescriptorType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import AnyUrl, BaseModel

from crewai_dbos._stored import changed, derived, forms, times
from crewai_dbos._stored.forms import Json
from crewai_dbos._stored.type_paths import by_path, load_type
from crewai_dbos.errors import UnstorableValueError


def decode(data: Json, known: Iterable[type] = ()) -> Any:
    """The value that `encode` was given, as a fresh copy.

    Args:
        data: What it returned.
        known: Classes that need not be looked up.

    Raises:
        UnstorableValueError: It names a class that it may not, or is not what `encode` returns.
    """
    try:
        return _Reader(known).read(data)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        if isinstance(error, UnstorableValueError):
            raise
        raise UnstorableValueError(f"It was not written by crewai-dbos ({error})") from error
    except RecursionError:
        raise UnstorableValueError("It is nested too deep") from None


class _Reader:
    """Reads one value.

    Args:
        known: Classes that need not be looked up.
    """

    def __init__(self, known: Iterable[type]) -> None:
        self._given = known
        self._depth = 0
        self._left = forms.MOST

    @cached_property
    def _known(self) -> Mapping[str, type]:
        """By path. Most values name no class, and this takes longer than to read them."""
        return by_path(self._given)

    def read(self, data: Json) -> Any:
        if type(data) is not dict and type(data) is not list:
            return data
        self._depth += 1
        self._left -= len(data)
        if self._depth > 2 * forms.DEEPEST or self._left < 0:
            raise UnstorableValueError("It is nested too deep, or holds too much")
        try:
            return self._of_pieces(data)
        finally:
            self._depth -= 1

    def _of_pieces(self, data: Any) -> Any:
        if type(data) is list:
            return [self.read(item) for item in data]
        tag = next(iter(data), "")
        if not tag.startswith("$"):
            return {key: self.read(item) for key, item in data.items()}
        if tag in _SCALARS:
            kind, load = _SCALARS[tag]
            return load(_is(kind, _alone(data)))
        if tag in _OF_LISTS:
            return _OF_LISTS[tag](_is(list, self.read(_alone(data))))
        if tag == "$map":
            pairs = [(self.read(k), self.read(v)) for k, v in _is(list, _alone(data))]
            _check_hashes([key for key, _ in pairs])
            return dict(pairs)
        if tag in _OF_CLASSES:
            return _OF_CLASSES[tag](self, data, data[tag])
        raise UnstorableValueError(f"Unknown type tag {tag!r}; a newer crewai-dbos may have it")

    # Classes -----------------------------------------------------------------

    def _factory(self, data: Json) -> Any:
        """An argument of a container; of a defaultdict it may be a class."""
        if not isinstance(data, dict) or "$class" not in data:
            return self.read(data)
        cls = load_type(_alone(data), object, self._known)
        forms.check_factory(cls)
        return cls

    def _enum(self, data: Json, path: str) -> Any:
        _keys(data, {"$enum", "value"})
        return member(load_type(path, enum.Enum, self._known), self.read(data["value"]))

    def _url(self, data: Json, path: str) -> Any:
        _keys(data, {"$url", "value"})
        cls = load_type(path, AnyUrl, self._known)
        forms.check_url(cls)
        return cls(_is(str, data["value"]))

    def _moment(self, data: Json, text: str) -> Any:
        _keys(data, {next(iter(data)), *times.PARTS})
        _is(str, text)
        return times.read(data, lambda path: load_type(path, ZoneInfo, self._known))

    def _offset(self, data: Json, parts: Any) -> timezone:
        _keys(data, {"$offset", "name"})
        name = [_is(str, data["name"])] if "name" in data else []
        return timezone(_timedelta(_is(list, parts)), *name)

    def _derived(self, data: Json, path: str) -> Any:
        _keys(data, {"$derived", "args", "items", "pairs", "state"})
        try:
            cls = load_type(path, object, self._known)
        except UnstorableValueError as error:
            args = self.read(_is(list, data["args"]))
            if len(args) != 1 or not derived.is_plain_scalar(args[0]):
                raise
            derived.tell_that_it_became_plain(path, args[0], str(error))
            return args[0]
        forms.check_data(cls)
        made_of: dict[str, Any] = {"args": [self._factory(arg) for arg in _is(list, data["args"])]}
        made_of.update({n: self.read(_is(list, data[n])) for n in _LISTS if n in data})
        _check_hashes([pair[0] for pair in made_of.get("pairs", ())])
        if "state" in data:
            made_of["state"] = _attributes(self.read(data["state"]))
        return derived.together(cls, made_of)

    def _dataclass(self, data: Json, path: str) -> Any:
        _keys(data, {"$dataclass", "fields", "lacks"})
        cls = load_type(path, object, self._known)
        if not forms.is_dataclass(cls):
            raise UnstorableValueError(f"{path} is not a dataclass")
        forms.check_data(cls)
        made = object.__new__(cls)
        fields = _attributes(self.read(data["fields"]))
        for name, value in changed.of_dataclass(cls, fields, _lacks(data)).items():
            _set(made, name, value)
        return made

    def _model(self, data: Json, path: str) -> BaseModel:
        """The model as it was: neither validated nor initialised a second time."""
        _keys(data, {"$model", "fields", "set", "extra", "private", "lacks"})
        cls: Any = load_type(path, BaseModel, self._known)
        forms.check_data(cls)
        stored = _attributes(self.read(data["fields"]))
        extra = _texts(self.read(data.get("extra", {})))
        attributes = cls.__private_attributes__
        private = changed.defaults(cls, attributes, attributes.keys(), {})
        private.update(_attributes(self.read(data.get("private", {}))))
        private = {name: value for name, value in private.items() if name in attributes}
        model: BaseModel = object.__new__(cls)
        names = changed.names_now(cls, stored.keys())
        object.__setattr__(model, "__dict__", changed.of_model(cls, stored, names, _lacks(data)))
        gone = {name: value for name, value in stored.items() if name not in names}
        were_set = [names.get(name, name) for name in _is(list, data["set"]) if name not in gone]
        object.__setattr__(model, "__pydantic_fields_set__", set(were_set))
        if cls.model_config.get("extra") == "allow":
            _set_own(model, "__pydantic_extra__", {**gone, **extra})
        else:
            _set_own(model, "__pydantic_extra__", None)
        _set_own(model, "__pydantic_private__", private if attributes else None)
        return model


_LISTS = ("items", "pairs")

_ALIKE = 1_000
"""Members of a set, or keys, with one hash: each is compared with all others."""


def _check_hashes(keys: Iterable[Any]) -> None:
    """Refuse keys that were chosen to be slow."""
    alike = Counter(hash(key) for key in keys if type(key) is not str)
    if max(alike.values(), default=0) > _ALIKE:
        raise UnstorableValueError("It has too many keys with one hash")


def _members(items: list[Any]) -> list[Any]:
    _check_hashes(items)
    return items


def _is(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise UnstorableValueError(
            f"It was not written by crewai-dbos: a {type(value).__name__} where a "
            f"{kind.__name__} belongs"
        )
    return value


def _alone(data: dict[str, Any]) -> Any:
    (body,) = data.values()
    return body


def _keys(data: dict[str, Any], allowed: set[str]) -> None:
    if unknown := set(data) - allowed:
        raise UnstorableValueError(f"It was not written by crewai-dbos: {sorted(unknown)[0]!r}")


def _attributes(values: Any) -> dict[str, Any]:
    """`values` by the names of attributes."""
    for name in _texts(values):
        if name.startswith("__"):
            raise UnstorableValueError(f"There is no field {name!r}")
    return dict(values)


def _texts(values: Any) -> dict[str, Any]:
    """`values` by texts of any kind."""
    for name in _is(dict, values):
        _is(str, name)
    return dict(values)


def _lacks(data: dict[str, Any]) -> list[str]:
    """The fields that had no value when they were stored."""
    found: list[str] = [_is(str, name) for name in _is(list, data.get("lacks", []))]
    return found


def _set(made: Any, name: str, value: Any) -> None:
    """Set an attribute past every property and `__setattr__`, which may do anything."""
    slot = next((vars(cls)[name] for cls in type(made).__mro__ if name in vars(cls)), None)
    if isinstance(slot, MemberDescriptorType):
        slot.__set__(made, value)
    else:
        object.__getattribute__(made, "__dict__")[name] = value


def _set_own(model: BaseModel, name: str, value: Any) -> None:
    """Set what pydantic keeps of a model; that of a class without it, as RootModel, is None."""
    slot = next((vars(cls)[name] for cls in type(model).__mro__ if name in vars(cls)), None)
    if value is not None or isinstance(slot, MemberDescriptorType):
        object.__setattr__(model, name, value)


def member(cls: Any, value: Any) -> Any:
    """The member of an enum, found without asking its own ``_missing_``.

    Raises:
        UnstorableValueError: There is none with this value.
    """
    for each in cls.__members__.values():
        if type(each._value_) is type(value) and _is_equal(each._value_, value):
            return each
    if (
        issubclass(cls, enum.Flag)
        and type(value) is int
        and len(cls._value2member_map_) < _COMBINED
    ):
        missing = next(vars(c)["_missing_"] for c in cls.__mro__ if _is_stdlib_flag(c))
        return missing.__func__(cls, value)
    raise UnstorableValueError(f"{cls.__qualname__} has no member with the value {value!r}")


def _is_equal(value: Any, other: Any) -> bool:
    both_nan = type(value) is float and value != value and other != other
    return both_nan or bool(value == other)


_COMBINED = 4_096
"""Combinations of a flag. Python keeps each that was ever made."""


def _is_stdlib_flag(cls: type) -> bool:
    return cls.__module__ == "enum" and "_missing_" in vars(cls)


def _special_float(text: str) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise UnstorableValueError(f"{text!r} is no number that JSON lacks")
    return float(text)


def _timedelta(parts: list[Any]) -> timedelta:
    days, seconds, microseconds = (_is(int, part) for part in parts)
    return timedelta(days, seconds, microseconds)


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


_SCALARS: dict[str, tuple[type, Callable[[Any], Any]]] = {
    "$float": (str, _special_float),
    "$int": (str, lambda text: int(text, 16)),
    "$str": (str, lambda text: _bytes(text).decode("utf-8", "surrogatepass")),
    "$date": (str, date.fromisoformat),
    "$timedelta": (list, _timedelta),
    "$decimal": (str, Decimal),
    "$uuid": (str, UUID),
    "$path": (str, Path),
    "$bytes": (str, _bytes),
    "$zone": (str, times.read_zone),
}
_OF_LISTS: dict[str, Callable[[list[Any]], Any]] = {
    "$tuple": tuple,
    "$frozenset": lambda items: frozenset(_members(items)),
    "$set": lambda items: set(_members(items)),
}
_OF_CLASSES: dict[str, Callable[[_Reader, Json, str], Any]] = {
    "$offset": _Reader._offset,
    "$datetime": _Reader._moment,
    "$time": _Reader._moment,
    "$enum": _Reader._enum,
    "$url": _Reader._url,
    "$derived": _Reader._derived,
    "$dataclass": _Reader._dataclass,
    "$model": _Reader._model,
}
