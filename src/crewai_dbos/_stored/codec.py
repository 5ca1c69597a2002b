"""Values as plain JSON, and back.

What JSON has natively is stored as it is. Everything else is an object with one key that starts
with ``$`` and names its type. Classes are stored by import path; nothing is ever pickled.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from pydantic import AnyUrl, BaseModel
from pydantic_core import PydanticUndefined

from crewai_dbos._classes import original_class
from crewai_dbos._errors import UnstorableValueError
from crewai_dbos._stored import derived, files
from crewai_dbos._stored.type_paths import by_path, import_path, load_type, type_path

Json = Any
T = TypeVar("T")

# Python refuses to read or write decimal integers of more than 4300 digits.
_LARGE_BITS = 10_000


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A value that has been encoded already; it is decoded with what it is part of."""

    data: Json


def encode(value: Any, known: Iterable[type] = ()) -> Json:
    """The JSON form of `value`.

    Args:
        value: Scalars, containers, pydantic models, dataclasses, enums, dates, bytes, paths,
            URLs of pydantic.
        known: Classes that `decode` will be given too; only these may be unimportable.

    Raises:
        UnstorableValueError: `value` holds something without a JSON form.
    """
    return _encode(value, by_path(known))


def decode(data: Json, known: Iterable[type] = ()) -> Any:
    """The value that `encode` was given, as a fresh copy."""
    return _decode(data, by_path(known))


def _encode(value: Any, local: Mapping[str, type]) -> Json:
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        return value if value.bit_length() < _LARGE_BITS else {"$int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is str:
        return value if is_text(value) else {"$str": _b64(value.encode("utf-8", "surrogatepass"))}
    if kind is list:
        return [_encode(item, local) for item in value]
    if kind is dict:
        if all(type(key) is str and is_text(key) and not key.startswith("$") for key in value):
            return {key: _encode(item, local) for key, item in value.items()}
        return {"$map": [[_encode(k, local), _encode(v, local)] for k, v in value.items()]}
    if kind is Encoded:
        return value.data
    if isinstance(value, Enum):
        return {"$enum": type_path(kind, local), "value": _encode(value.value, local)}
    if isinstance(value, AnyUrl):
        return {"$url": type_path(kind, local), "value": str(value)}
    if isinstance(value, BaseModel):
        _refuse_live(kind)
        return _encode_model(
            files.without_content(value) if files.is_source(value) else value, local
        )
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"$dataclass": type_path(kind, local), "fields": _encode(_kept_by(value), local)}
    for tag, (cls, dump, _) in _TAGGED.items():
        if kind is cls or (isinstance(value, cls) and not derived.is_derived(value)):
            return {tag: _encode(dump(value), local)}
    if derived.is_derived(value):
        return _encode_derived(value, local)
    raise UnstorableValueError(
        f"{import_path(kind)} has no JSON form. Use plain data, a pydantic model or a dataclass "
        "defined at the top level of a module."
    )


def _decode(data: Json, local: Mapping[str, type]) -> Any:
    if isinstance(data, list):
        return [_decode(item, local) for item in data]
    if not isinstance(data, dict):
        return data
    tag = next(iter(data), "")
    if not tag.startswith("$"):
        return {key: _decode(item, local) for key, item in data.items()}
    body = data[tag]
    if tag == "$float":
        return float(body)
    if tag == "$int":
        return int(body, 16)
    if tag == "$str":
        return base64.b64decode(body).decode("utf-8", "surrogatepass")
    if tag == "$map":
        return {_decode(k, local): _decode(v, local) for k, v in body}
    if tag == "$class":
        return load_type(body, object, local)
    if tag == "$derived":
        parts = {name: _decode(data[name], local) for name in data if name != tag}
        return derived.together(load_type(body, object, local), parts)
    if tag == "$enum":
        return load_type(body, Enum, local)(_decode(data["value"], local))
    if tag == "$url":
        return load_type(body, AnyUrl, local)(data["value"])
    if tag == "$model":
        return _rebuild_model(load_type(body, BaseModel, local), data, local)
    if tag == "$dataclass":
        return _rebuild_dataclass(load_type(body, object, local), _decode(data["fields"], local))
    try:
        _, _, load = _TAGGED[tag]
    except KeyError:
        raise UnstorableValueError(
            f"Unknown type tag {tag!r}: written by a newer crewai-dbos?"
        ) from None
    return load(_decode(body, local))


_LIVE = (
    "crewai.llms.base_llm:BaseLLM",
    "crewai.agents.agent_builder.base_agent:BaseAgent",
    "crewai.task:Task",
    "crewai.crew:Crew",
    "crewai.flow.runtime:Flow",
    "crewai.tools.base_tool:BaseTool",
    "crewai.memory.unified_memory:Memory",
    "crewai.knowledge.knowledge:Knowledge",
)


def _refuse_live(cls: type) -> None:
    """What acts, and holds clients and keys, is no value."""
    if any(import_path(base) in _LIVE for base in cls.__mro__):
        raise UnstorableValueError(
            f"{import_path(cls)} is not data: build it anew where it is needed, or keep what it "
            "returned."
        )


def _encode_model(value: BaseModel, local: Mapping[str, type]) -> Json:
    cls: Any = original_class(type(value))
    fields = {name: value.__dict__[name] for name in cls.model_fields if name in value.__dict__}
    stored = {
        "$model": type_path(cls, local),
        "fields": _encode(fields, local),
        "set": sorted(value.model_fields_set),
    }
    if value.__pydantic_extra__:
        stored["extra"] = _encode(dict(value.__pydantic_extra__), local)
    private = {}
    for name, item in (value.__pydantic_private__ or {}).items():
        # A lock or a client in a private attribute starts anew, as after a restart.
        with contextlib.suppress(UnstorableValueError):
            private[name] = _encode(item, local)
    if private:
        stored["private"] = private
    return stored


def _rebuild_model(cls: type[BaseModel], data: Json, local: Mapping[str, type]) -> BaseModel:
    """The model as it was: neither validated nor initialised a second time."""
    model = cls.__new__(cls)
    object.__setattr__(model, "__dict__", _decode(data["fields"], local))
    object.__setattr__(model, "__pydantic_fields_set__", set(data["set"]))
    extra = _decode(data.get("extra", {}), local)
    allows_extra = cls.model_config.get("extra") == "allow"
    object.__setattr__(model, "__pydantic_extra__", extra if allows_extra else None)
    attributes = cls.__private_attributes__
    private = {name: attribute.get_default() for name, attribute in attributes.items()}
    private = {name: item for name, item in private.items() if item is not PydanticUndefined}
    private.update({n: _decode(item, local) for n, item in data.get("private", {}).items()})
    object.__setattr__(model, "__pydantic_private__", private if attributes else None)
    return model


def _kept_by(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, and what its ``__post_init__`` or a user has added to them."""
    fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    added = {
        name: item
        for name, item in getattr(value, "__dict__", {}).items()
        if not isinstance(getattr(type(value), name, None), cached_property)
    }
    return {**added, **fields}


def _rebuild_dataclass(cls: type[T], fields: dict[str, Any]) -> T:
    rebuilt = object.__new__(cls)
    for name, item in fields.items():
        object.__setattr__(rebuilt, name, item)
    return rebuilt


def _encode_derived(value: Any, local: Mapping[str, type]) -> Json:
    cls = type(value)
    reason = "its class can't be made again from data"
    if (parts := derived.parts(value)) is not None:
        try:
            args = [_encode_arg(arg, local) for arg in parts.pop("args")]
            encoded = {name: _encode(part, local) for name, part in parts.items()}
            return {"$derived": type_path(cls, local), "args": args, **encoded}
        except UnstorableValueError as error:
            reason = str(error).rstrip(".")
    stored = _encode(derived.plain(value), local)
    derived.tell_that_it_becomes_plain(cls, reason)
    return stored


def _encode_arg(value: Any, local: Mapping[str, type]) -> Json:
    # The only class that is a value: what a defaultdict makes.
    is_class = isinstance(value, type)
    return {"$class": type_path(value, local)} if is_class else _encode(value, local)


def _seconds(delta: timedelta) -> list[int]:
    return [delta.days, delta.seconds, delta.microseconds]


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


# datetime is a date, so it stands before it.
_TAGGED: dict[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "$datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
    "$date": (date, date.isoformat, date.fromisoformat),
    "$time": (time, time.isoformat, time.fromisoformat),
    "$timedelta": (timedelta, _seconds, lambda parts: timedelta(*parts)),
    "$decimal": (Decimal, str, Decimal),
    "$uuid": (UUID, str, UUID),
    "$path": (Path, str, Path),
    "$bytes": (bytes, _b64, base64.b64decode),
    "$tuple": (tuple, list, tuple),
    "$frozenset": (frozenset, lambda s: sorted(s, key=repr), frozenset),
    "$set": (set, lambda s: sorted(s, key=repr), set),
}


def is_text(value: str) -> bool:
    """Whether `value` has a form in UTF-8, which a lone surrogate has not."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
