"""Values and errors as plain JSON, and back.

What JSON has natively is stored as it is. Everything else is an object with one key that starts
with ``$`` and names its type. Classes are stored by import path; nothing is ever pickled.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints
from uuid import UUID

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from crewai_dbos._classes import original_class
from crewai_dbos._errors import RecordedError, UnstorableValueError
from crewai_dbos._stored import derived, files

Json = Any
T = TypeVar("T")

MAX_CAUSES = 4

# Python refuses to read or write decimal integers of more than 4300 digits.
_LARGE_BITS = 10_000


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A value that has been encoded already; it is decoded with what it is part of."""

    data: Json


def encode(value: Any, known: Iterable[type] = ()) -> Json:
    """The JSON form of `value`.

    Args:
        value: Scalars, containers, pydantic models, dataclasses, enums, dates, bytes, paths.
        known: Classes that `decode` will be given too; only these may be unimportable.

    Raises:
        UnstorableValueError: `value` holds something without a JSON form.
    """
    return _encode(value, _by_path(known))


def decode(data: Json, known: Iterable[type] = ()) -> Any:
    """The value that `encode` was given, as a fresh copy."""
    return _decode(data, _by_path(known))


def _encode(value: Any, local: Mapping[str, type]) -> Json:
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        return value if value.bit_length() < _LARGE_BITS else {"$int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is str:
        return value if _is_text(value) else {"$str": _b64(value.encode("utf-8", "surrogatepass"))}
    if kind is list:
        return [_encode(item, local) for item in value]
    if kind is dict:
        if all(type(key) is str and _is_text(key) and not key.startswith("$") for key in value):
            return {key: _encode(item, local) for key, item in value.items()}
        return {"$map": [[_encode(k, local), _encode(v, local)] for k, v in value.items()]}
    if kind is Encoded:
        return value.data
    if isinstance(value, Enum):
        return {"$enum": _importable(kind, local), "value": _encode(value.value, local)}
    if isinstance(value, BaseModel):
        _refuse_live(kind)
        return _encode_model(
            files.without_content(value) if files.is_source(value) else value, local
        )
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {"$dataclass": _importable(kind, local), "fields": _encode(fields, local)}
    for tag, (cls, dump, _) in _TAGGED.items():
        if kind is cls or (isinstance(value, cls) and not derived.is_derived(value)):
            return {tag: _encode(dump(value), local)}
    if derived.is_derived(value):
        return _encode_derived(value, local)
    raise UnstorableValueError(
        f"{_path(kind)} has no JSON form. Use plain data, a pydantic model or a dataclass "
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
        return _load(body, object, local)
    if tag == "$derived":
        parts = {name: _decode(data[name], local) for name in data if name != tag}
        return derived.together(_load(body, object, local), parts)
    if tag == "$enum":
        return _load(body, Enum, local)(_decode(data["value"], local))
    if tag == "$model":
        return _rebuild_model(_load(body, BaseModel, local), data, local)
    if tag == "$dataclass":
        return _rebuild_dataclass(_load(body, object, local), _decode(data["fields"], local))
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
    if any(_path(base) in _LIVE for base in cls.__mro__):
        raise UnstorableValueError(
            f"{_path(cls)} is not data: build it anew where it is needed, or keep what it returned."
        )


def _encode_model(value: BaseModel, local: Mapping[str, type]) -> Json:
    cls: Any = original_class(type(value))
    fields = {name: value.__dict__[name] for name in cls.model_fields if name in value.__dict__}
    stored = {
        "$model": _importable(cls, local),
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
            return {"$derived": _importable(cls, local), "args": args, **encoded}
        except UnstorableValueError as error:
            reason = str(error).rstrip(".")
    stored = _encode(derived.plain(value), local)
    derived.tell_that_it_becomes_plain(cls, reason)
    return stored


def _encode_arg(value: Any, local: Mapping[str, type]) -> Json:
    # The only class that is a value: what a defaultdict makes.
    is_class = isinstance(value, type)
    return {"$class": _importable(value, local)} if is_class else _encode(value, local)


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


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _path(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _by_path(known: Iterable[type]) -> dict[str, type]:
    """`known` and the classes that their fields are declared with, by import path."""
    found: dict[str, type] = {}
    waiting: list[Any] = list(known)
    while waiting:
        item = waiting.pop()
        waiting.extend(get_args(item))
        if not isinstance(item, type) or _path(item) in found:
            continue
        found[_path(item)] = item
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


def type_path(cls: type) -> str:
    """``module:QualifiedName`` of a class that another process can import.

    Raises:
        UnstorableValueError: The class is defined inside a function or under another name.
    """
    return _importable(cls, {})


def load_type(path: str, base: type[T]) -> type[T]:
    """The class at ``module:QualifiedName``, which must derive from `base`."""
    found: type[T] = _load(path, base, {})
    return found


def _importable(cls: type, local: Mapping[str, type]) -> str:
    path = _path(cls)
    if local.get(path) is not cls and not _is_importable(cls):
        raise UnstorableValueError(
            f"{path} can't be imported by another process. Define it at the top level of a "
            "module, under its own name."
        )
    return path


def _is_importable(cls: type) -> bool:
    try:
        return _resolve(_path(cls)) is cls
    except (ImportError, AttributeError, ValueError):
        return False


def _resolve(path: str) -> Any:
    module, _, qualname = path.partition(":")
    found: Any = importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    return found


def _load(path: str, base: type[T], local: Mapping[str, type]) -> Any:
    try:
        found = local[path] if path in local else _resolve(path)
    except (ImportError, AttributeError) as error:
        raise UnstorableValueError(
            f"The journal names the class {path}, which can't be imported here ({error}). "
            "Put it back, or leave an alias under the old name."
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UnstorableValueError(f"{path} is not a {base.__name__}")
    return found


# Errors --------------------------------------------------------------------


def encode_error(error: BaseException, secrets: Iterable[str] = ()) -> Json:
    """Class, message, arguments and scalar attributes of `error` and of its causes.

    Args:
        error: The exception; its traceback is not stored.
        secrets: Texts (API keys) that are replaced by ``***`` wherever they occur.
    """
    hidden = sorted((secret for secret in secrets if len(secret) >= 4), key=len, reverse=True)
    return _encode_error(error, hidden, MAX_CAUSES)


def _encode_error(error: BaseException, secrets: list[str], depth: int) -> Json:
    # The file name of an OSError is in neither its args nor its attributes.
    made_of = error.__reduce__()[1] if isinstance(error, OSError) else error.args
    attributes = getattr(error, "__dict__", {}).items()
    data: dict[str, Any] = {
        "type": _path(type(error)),
        "bases": [_path(cls) for cls in type(error).__mro__[1:] if issubclass(cls, Exception)],
        "message": _hide(_text(error), secrets),
        "args": [_hide(_encode_or_none(arg), secrets) for arg in made_of],
        "attrs": {
            name: _hide(stored, secrets)
            for name, item in attributes
            if not name.startswith("__") and (stored := _encode_or_none(item)) is not None
        },
    }
    cause = error.__cause__ or error.__context__
    if cause is not None and depth > 1:
        data["cause"] = _encode_error(cause, secrets, depth - 1)
    return data


def _encode_or_none(value: Any) -> Json:
    try:
        return _encode(value, {})
    except (UnstorableValueError, RecursionError):
        return None


def decode_error(data: Json) -> Exception:
    """An exception of the recorded class, or a `RecordedError` that stands in for it.

    Either way ``str()`` gives the recorded message, and ``isinstance`` holds for the nearest
    base class that can be rebuilt.
    """
    error = _rebuild_error(data["type"], data) or _stand_in(data)
    if "cause" in data:
        error.__cause__ = decode_error(data["cause"])
    return error


def _rebuild_error(path: str, data: Json) -> Exception | None:
    try:
        cls = _load(path, Exception, {})
        args = tuple(_decode(arg, {}) for arg in data["args"])
        error: Exception = cls.__new__(cls, *args)
        error.args = args
        _set_attributes(error, data)
        matches = _text(error) == data["message"]
    except Exception:
        return None
    return error if matches else None


def _stand_in(data: Json) -> Exception:
    for path in (data["type"], *data["bases"]):
        with contextlib.suppress(Exception):
            base = _load(path, Exception, {})
            error: RecordedError = type("RecordedError", (RecordedError, base), {})(data["message"])
            if _text(error) == data["message"]:
                break
    else:
        error = RecordedError(data["message"])
    _set_attributes(error, data)
    error.recorded_type = data["type"]
    return error


def _set_attributes(error: Exception, data: Json) -> None:
    for name, item in data["attrs"].items():
        # A property of the class that can't be set computes its value itself.
        with contextlib.suppress(AttributeError):
            setattr(error, name, _decode(item, {}))


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return type(error).__name__


def _hide(stored: Json, secrets: list[str]) -> Json:
    if isinstance(stored, list):
        return [_hide(item, secrets) for item in stored]
    if isinstance(stored, dict):
        return {key: _hide(item, secrets) for key, item in stored.items()}
    if not isinstance(stored, str):
        return stored
    for secret in secrets:
        stored = stored.replace(secret, "***")
    return stored if _is_text(stored) else stored.encode("utf-8", "replace").decode()
