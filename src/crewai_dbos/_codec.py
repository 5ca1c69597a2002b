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
from typing import Any, TypeVar, cast
from uuid import UUID

from pydantic import BaseModel

from crewai_dbos._errors import RecordedError, UnstorableValueError

Json = Any
T = TypeVar("T")

MAX_CAUSES = 4

_LARGE = 2**63


def encode(value: Any, known: Iterable[type] = ()) -> Json:
    """The JSON form of `value`.

    Args:
        value: Scalars, containers, pydantic models, dataclasses, enums, dates, bytes, paths.
        known: Classes that `decode` will be given too; only these may be unimportable.

    Raises:
        UnstorableValueError: `value` holds something without a JSON form.
    """
    local = {_path(cls): cls for cls in known}
    return _encode(value, local)


def decode(data: Json, known: Iterable[type] = ()) -> Any:
    """The value that `encode` was given, as a fresh copy."""
    return _decode(data, {_path(cls): cls for cls in known})


def _encode(value: Any, local: Mapping[str, type]) -> Json:
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        return value if abs(value) < _LARGE else {"$int": hex(value)}
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
    if isinstance(value, Enum):
        return {"$enum": _importable(kind), "value": _encode(value.value, local)}
    if isinstance(value, BaseModel):
        return _encode_model(value, local)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {"$dataclass": _importable(kind), "fields": _encode(fields, local)}
    for tag, (cls, dump, _) in _TAGGED.items():
        if isinstance(value, cls):
            return {tag: _encode(dump(value), local)}
    if isinstance(value, (str, int, float, list, dict)):
        return _encode(_plain(value), local)
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
    if tag == "$enum":
        return _load(body, Enum)(_decode(data["value"], local))
    if tag == "$model":
        fields = _decode(data["fields"], local)
        return _load(body, BaseModel).model_construct(_fields_set=set(data["set"]), **fields)
    if tag == "$local":
        return cast(type[BaseModel], local[body]).model_validate(data["data"])
    if tag == "$dataclass":
        return _rebuild_dataclass(_load(body, object), _decode(data["fields"], local))
    try:
        _, _, load = _TAGGED[tag]
    except KeyError:
        raise UnstorableValueError(
            f"Unknown type tag {tag!r}: written by a newer crewai-dbos?"
        ) from None
    return load(_decode(body, local))


def _encode_model(value: BaseModel, local: Mapping[str, type]) -> Json:
    path = _path(type(value))
    if path in local and not _is_importable(type(value)):
        return {"$local": path, "data": value.model_dump(mode="json")}
    fields = {**value.__dict__, **(value.__pydantic_extra__ or {})}
    return {
        "$model": _importable(type(value)),
        "fields": _encode(fields, local),
        "set": sorted(value.model_fields_set),
    }


def _rebuild_dataclass(cls: type[T], fields: dict[str, Any]) -> T:
    rebuilt = object.__new__(cls)
    for name, item in fields.items():
        object.__setattr__(rebuilt, name, item)
    return rebuilt


def _seconds(delta: timedelta) -> list[int]:
    return [delta.days, delta.seconds, delta.microseconds]


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


# datetime is a date, so it stands before it.
_TAGGED: dict[str, tuple[type | tuple[type, ...], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "$datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
    "$date": (date, date.isoformat, date.fromisoformat),
    "$time": (time, time.isoformat, time.fromisoformat),
    "$timedelta": (timedelta, _seconds, lambda parts: timedelta(*parts)),
    "$decimal": (Decimal, str, Decimal),
    "$uuid": (UUID, str, UUID),
    "$path": (Path, str, Path),
    "$bytes": ((bytes, bytearray), lambda b: _b64(bytes(b)), base64.b64decode),
    "$tuple": (tuple, list, tuple),
    "$frozenset": (frozenset, lambda s: sorted(s, key=repr), frozenset),
    "$set": (set, lambda s: sorted(s, key=repr), set),
}


def _plain(value: Any) -> Any:
    base: Any = next(b for b in (str, int, float, list, dict) if isinstance(value, b))
    return base(value)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _path(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def type_path(cls: type) -> str:
    """``module:QualifiedName`` of a class that another process can import.

    Raises:
        UnstorableValueError: The class is defined inside a function or under another name.
    """
    return _importable(cls)


def load_type(path: str, base: type[T]) -> type[T]:
    """The class at ``module:QualifiedName``, which must derive from `base`."""
    found: type[T] = _load(path, base)
    return found


def _is_importable(cls: type) -> bool:
    try:
        return _resolve(_path(cls)) is cls
    except (ImportError, AttributeError, ValueError):
        return False


def _importable(cls: type) -> str:
    if not _is_importable(cls):
        raise UnstorableValueError(
            f"{_path(cls)} can't be imported by another process. Define it at the top level of a "
            "module, under its own name."
        )
    return _path(cls)


def _resolve(path: str) -> Any:
    module, _, qualname = path.partition(":")
    found: Any = importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    return found


def _load(path: str, base: type[T]) -> Any:
    try:
        found = _resolve(path)
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
    hidden = [secret for secret in secrets if len(secret) >= 4]
    return _encode_error(error, hidden, MAX_CAUSES)


def _encode_error(error: BaseException, secrets: list[str], depth: int) -> Json:
    data: dict[str, Any] = {
        "type": _path(type(error)),
        "bases": [_path(cls) for cls in type(error).__mro__[1:] if issubclass(cls, Exception)],
        "message": _hide(_text(error), secrets),
        "args": [_hide(arg, secrets) if _is_scalar(arg) else None for arg in error.args],
        "attrs": {
            name: _hide(item, secrets)
            for name, item in getattr(error, "__dict__", {}).items()
            if _is_scalar(item) and not name.startswith("__")
        },
    }
    cause = error.__cause__ or error.__context__
    if cause is not None and depth > 1:
        data["cause"] = _encode_error(cause, secrets, depth - 1)
    return data


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
        cls = _load(path, Exception)
        error: Exception = cls.__new__(cls, *data["args"])
        error.args = tuple(data["args"])
        for name, item in data["attrs"].items():
            setattr(error, name, item)
        matches = _text(error) == data["message"]
    except Exception:
        return None
    return error if matches else None


def _stand_in(data: Json) -> Exception:
    for path in data["bases"]:
        with contextlib.suppress(Exception):
            base = _load(path, Exception)
            error: RecordedError = type("RecordedError", (RecordedError, base), {})(data["message"])
            if _text(error) == data["message"]:
                break
    else:
        error = RecordedError(data["message"])
    error.recorded_type = data["type"]
    return error


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return type(error).__name__


def _is_scalar(value: Any) -> bool:
    return value is None or type(value) in (bool, int, float, str)


def _hide(value: Any, secrets: list[str]) -> Any:
    if type(value) is not str:
        return value
    for secret in secrets:
        value = value.replace(secret, "***")
    return value if _is_text(value) else value.encode("utf-8", "replace").decode()
