"""Errors as plain JSON, and back: of the recorded class, or the nearest base that can be made."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from crewai_dbos._errors import RecordedError, UnstorableValueError
from crewai_dbos._secrets.cutting import cutter
from crewai_dbos._stored.codec import Json, decode, encode, is_text
from crewai_dbos._stored.type_paths import import_path, load_type

MAX_CAUSES = 4


def encode_error(error: BaseException, secrets: Iterable[str] = ()) -> Json:
    """Class, message, arguments and scalar attributes of `error` and of its causes.

    Args:
        error: The exception; its traceback is not stored.
        secrets: Texts (API keys) that are replaced by ``***`` wherever they occur; see `cutter`.
    """
    return _encode_error(error, cutter(secrets), MAX_CAUSES)


def _encode_error(error: BaseException, hide: Callable[[str], str], depth: int) -> Json:
    # The file name of an OSError is in neither its args nor its attributes.
    made_of = error.__reduce__()[1] if isinstance(error, OSError) else error.args
    attributes = getattr(error, "__dict__", {}).items()
    data: dict[str, Any] = {
        "type": import_path(type(error)),
        "bases": [
            import_path(cls) for cls in type(error).__mro__[1:] if issubclass(cls, Exception)
        ],
        "message": _hide(_text(error), hide),
        "args": [_hide(_encode_or_none(arg), hide) for arg in made_of],
        "attrs": {
            name: _hide(stored, hide)
            for name, item in attributes
            if not name.startswith("__") and (stored := _encode_or_none(item)) is not None
        },
    }
    cause = error.__cause__ or error.__context__
    if cause is not None and depth > 1:
        data["cause"] = _encode_error(cause, hide, depth - 1)
    return data


def _encode_or_none(value: Any) -> Json:
    try:
        return encode(value)
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
        cls = load_type(path, Exception)
        args = tuple(decode(arg) for arg in data["args"])
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
            base = load_type(path, Exception)
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
            setattr(error, name, decode(item))


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return type(error).__name__


def _hide(stored: Json, hide: Callable[[str], str]) -> Json:
    """`stored`, which `encode` has made, without secrets; it can be decoded as before."""
    if isinstance(stored, list):
        return [_hide(item, hide) for item in stored]
    if isinstance(stored, dict):
        tag = next(iter(stored), "")
        if tag.startswith("$"):
            return _hide_in_form(tag, stored, hide)
        return {hide(key): _hide(item, hide) for key, item in stored.items()}
    if not isinstance(stored, str):
        return stored
    stored = hide(stored)
    return stored if is_text(stored) else stored.encode("utf-8", "replace").decode()


def _hide_in_form(tag: str, stored: dict[str, Json], hide: Callable[[str], str]) -> Json:
    body = stored[tag]
    if tag in ("$bytes", "$str"):
        data = base64.b64decode(body)
        # Of either, as text in which no byte is lost.
        text = data.decode("utf-8", "surrogateescape")
        left = hide(text).encode("utf-8", "surrogateescape")
        return stored if left == data else {tag: base64.b64encode(left).decode("ascii")}
    if not isinstance(body, str):
        return {tag: _hide(body, hide)}
    if len(stored) == 1:
        # What is left of a number, a date or an id is none.
        hidden = hide(body)
        return stored if hidden == body else hidden
    inside = {name: _hide(item, hide) for name, item in stored.items() if name != tag}
    if tag in ("$enum", "$url") and inside["value"] != stored["value"]:
        return inside["value"]
    return {tag: body, **inside}
