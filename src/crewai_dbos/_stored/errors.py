"""Errors as plain JSON, and back: of the recorded class, or the nearest base that can be made."""

from __future__ import annotations

import base64
import builtins
import contextlib
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import MemberDescriptorType
from typing import Any, cast

from pydantic import ValidationError

from crewai_dbos import _tracebacks
from crewai_dbos._classes import ORIGINAL, original_class
from crewai_dbos._secrets.cutting import cutter
from crewai_dbos._stored import forms, modules, validation
from crewai_dbos._stored.codec import Json, decode, encode
from crewai_dbos._stored.forms import is_text
from crewai_dbos._stored.type_paths import import_path, load_type
from crewai_dbos.errors import RecordedError, UnstorableValueError

MAX_CAUSES = 4

Group: Any = getattr(builtins, "ExceptionGroup", ())
"""That of Python, from 3.11; an empty tuple, which nothing is an instance of, before."""

_KNOWN = ("builtins", "crewai", "crewai_dbos", "dbos", "openai")
"""Packages whose errors do nothing to tell their text but put it together."""


def encode_error(error: BaseException, secrets: Iterable[str] = ()) -> Json:
    """Class, message, arguments and scalar attributes of `error` and of its causes.

    Args:
        error: The exception. Of its traceback the files, lines and functions are stored.
        secrets: Texts (API keys) that are replaced by ``***`` wherever they occur; see `cutter`.
    """
    return _encode_error(error, cutter(secrets), [])


def _encode_error(
    error: BaseException, hide: Callable[[str], str], after: Sequence[BaseException]
) -> Json:
    told = [*after, error]
    attributes = [*getattr(error, "__dict__", {}).items(), *_in_slots(error)]
    data: dict[str, Any] = {
        "type": import_path(original_class(type(error))),
        "bases": [
            import_path(cls) for cls in type(error).__mro__[1:] if issubclass(cls, Exception)
        ],
        "message": _hide(_text(error), hide),
        "args": _pieces(error, hide, told),
        # One without a JSON form is None, and not gone: whoever catches the error asks for it.
        "attrs": {
            name: _hide(_encode_or_none(item), hide)
            for name, item in attributes
            if not name.startswith("__")
        },
    }
    if raised := _tracebacks.places(error):
        data["raised"] = [
            [_hide(file, hide), line, _hide(function, hide)] for file, line, function in raised
        ]
    if notes := _notes(error):
        data["notes"] = [_hide(note, hide) for note in notes]
    cause = _tracebacks.cause_of(error)
    # Some libraries raise an error from itself, which a traceback shows once.
    if cause is not None and len(told) < MAX_CAUSES and not any(cause is each for each in told):
        data["cause"] = _encode_error(cause, hide, told)
    return data


def _slots(cls: type) -> dict[str, MemberDescriptorType]:
    """The slots of `cls` and of its bases, those of Python's own aside."""
    of_users = (base for base in reversed(cls.__mro__) if base.__module__ != "builtins")
    held = ((name, item) for base in of_users for name, item in vars(base).items())
    return {name: item for name, item in held if isinstance(item, MemberDescriptorType)}


def _in_slots(error: BaseException) -> Iterator[tuple[str, Any]]:
    for name, slot in _slots(type(error)).items():
        with contextlib.suppress(AttributeError):  # it is empty
            yield name, slot.__get__(error)


def _pieces(
    error: BaseException, hide: Callable[[str], str], told: Sequence[BaseException]
) -> list[Json]:
    """What `error` is made of: its arguments, if it is of no class that has more."""
    if isinstance(error, Group) and len(told) < MAX_CAUSES:
        inside = [_encode_error(each, hide, told) for each in error.exceptions]
        return [_hide(encode(error.message), hide), *inside]
    made_of: Iterable[Any] = error.args
    if isinstance(error, OSError):
        made_of = error.__reduce__()[1]  # its file name is in neither its args nor its attributes
    elif type(error) is ValidationError:
        made_of = validation.pieces(error)
    return [_hide(_encode_or_none(piece), hide) for piece in made_of]


def _notes(error: BaseException) -> list[str]:
    """What was noted of `error`, other than by us."""
    told = _tracebacks.note_of(error)
    return [note for note in _tracebacks.notes(error) if note != told]


def _encode_or_none(value: Any) -> Json:
    try:
        return encode(value)
    except (UnstorableValueError, RecursionError):
        return None


def decode_error(data: Json) -> Exception:
    """An exception of the recorded class, or a `RecordedError` that stands in for it.

    Either way ``str()`` gives the recorded message, and ``isinstance`` holds for the nearest
    base class that can be rebuilt. No constructor of such a class is called.

    Raises:
        UnstorableValueError: `data` is not what `encode_error` returns.
    """
    return _decode_error(data, 2 * MAX_CAUSES)


def _decode_error(data: Json, depth: int) -> Exception:
    if not is_error(data) or depth == 0:
        raise UnstorableValueError("The error was not written by crewai-dbos")
    error = _rebuild_error(data, depth - 1) or _stand_in(data)
    _tracebacks.remember(error, [(file, line, name) for file, line, name in data.get("raised", ())])
    if "notes" in data:
        _attributes_of(error)["__notes__"] = list(data["notes"])
    if "cause" in data:
        cause = _decode_error(data["cause"], depth - 1)
        BaseException.__dict__["__cause__"].__set__(error, cause)
    return error


_PARTS = {"type": str, "bases": list, "message": str, "args": list, "attrs": dict}
_MORE = {"cause": dict, "raised": list, "notes": list}
"""What not every error has, or has had in every version."""


def is_error(data: Any) -> bool:
    """Whether `data` has the form of what `encode_error` returns."""
    return (
        isinstance(data, dict)
        and set(_PARTS) <= set(data) <= {*_PARTS, *_MORE}
        and all(isinstance(data[name], kind) for name, kind in _PARTS.items())
        and all(isinstance(data[name], kind) for name, kind in _MORE.items() if name in data)
        and all(isinstance(text, str) for text in (*data["bases"], *data.get("notes", ())))
        and all(map(_is_place, data.get("raised", ())))
    )


def _is_place(data: Any) -> bool:
    return isinstance(data, list) and list(map(type, data)) == [str, int, str]


def _rebuild_error(data: Json, depth: int) -> Exception | None:
    try:
        cls = _error_class(data["type"])
        if issubclass(cls, Group):
            message, *inside = data["args"]
            args: tuple[Any, ...] = (decode(message), [_decode_error(e, depth) for e in inside])
        else:
            args = tuple(decode(arg) for arg in data["args"])
        if cls is ValidationError:
            title, errors = args
            return validation.again(title, errors, data["message"])
        if not _has_own_text(cls) or modules.is_of_a_definition(cls):
            error: Exception = _made(cls, args, data)
            if _text(error) != data["message"] and issubclass(cls, OSError):
                error = _made(cls, args, data, _of_args_alone)  # its class passes OSError over
            return error if _text(error) == data["message"] else None
        # What a library's class says by a method of its own is on record; it is not asked.
        return _made(_saying(cls, data["message"]), args, data) if _may_be_derived(cls) else None
    except Exception:
        return None


def _stand_in(data: Json) -> Exception:
    args = (data["message"],)
    error: RecordedError = _made(RecordedError, args, data)
    for path in (data["type"], *data["bases"]):
        with contextlib.suppress(Exception):
            base = _error_class(path)
            if _may_be_derived(base):
                error = _made(_standing_in_for(base), args, data)
                break
    _attributes_of(error)["recorded_type"] = data["type"]
    return error


def _standing_in_for(base: type[Exception]) -> type[Exception]:
    body = {"__str__": lambda self: str(self.args[0]), "__reduce__": _reduced(_standing_in_for)}
    made: Any = type("RecordedError", (RecordedError, base), {**body, _MADE_OF: (base,)})
    return cast(type[Exception], made)


_MADE_OF = "__crewai_dbos_made_of__"


def _reduced(make: Callable[..., type[Exception]]) -> Callable[[Any], Any]:
    """How pickle takes an error apart whose class `make` has made, as no module has that."""

    def reduce(self: Any) -> Any:
        made_of = getattr(type(self), _MADE_OF)
        found = {**_attributes_of(self), **dict(_in_slots(self))}
        attributes = {n: item for n, item in found.items() if _can_pickle(item)}
        args = OSError.__reduce__(self)[1] if isinstance(self, OSError) else self.args
        return _again, (make, made_of, args, attributes)

    return reduce


def _again(
    make: Callable[..., type[Exception]],
    made_of: tuple[Any, ...],
    args: tuple[Any, ...],
    attributes: dict[str, Any],
) -> Exception:
    cls: Any = make(*made_of)
    error: Exception = _of_args(cls, args)
    for name, item in attributes.items():
        _set(error, name, item)
    return error


def _of_args(cls: Any, args: tuple[Any, ...]) -> Any:
    """An error made as the built-in class that `cls` derives from makes one."""
    if issubclass(cls, OSError):
        error = OSError.__new__(cls, *args)
        OSError.__init__(error, *args)  # which tells file names from arguments
        return error
    return _of_args_alone(cls, args)


def _of_args_alone(cls: Any, args: tuple[Any, ...]) -> Any:
    builtin: Any = next(base for base in cls.__mro__ if base.__module__ == "builtins")
    error = builtin.__new__(cls, *args)
    if builtin is cls:
        builtin.__init__(error, *args)  # what a UnicodeError tells, and the value of StopIteration
    BaseException.args.__set__(error, args)  # type: ignore[attr-defined]
    return error


def _set(error: BaseException, name: str, value: Any) -> None:
    """Set an attribute past every property and `__setattr__`, which may do anything."""
    slot = _slots(type(error)).get(name)
    if slot is not None:
        slot.__set__(error, value)
    else:
        _attributes_of(error)[name] = value


def _can_pickle(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True


def _has_own_text(cls: type) -> bool:
    defining = next(base for base in cls.__mro__ if "__str__" in vars(base))
    return defining.__module__.partition(".")[0] not in _KNOWN


def _may_be_derived(cls: type) -> bool:
    # A class may do anything when another is derived from it.
    return type(cls) is type and not forms.has(cls, "__init_subclass__")


def _saying(cls: type[Exception], message: str) -> type[Exception]:
    """A class that is `cls` but for what it says."""
    body: dict[str, Any] = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        ORIGINAL: cls,
        "__str__": lambda _: message,
        "__reduce__": _reduced(_saying),
        _MADE_OF: (cls, message),
    }
    return type(cls.__name__, (cls,), body)


def _attributes_of(error: BaseException) -> dict[str, Any]:
    found: dict[str, Any] = BaseException.__dict__["__dict__"].__get__(error)
    return found


def _error_class(path: str) -> type[Exception]:
    cls = load_type(path, Exception)
    forms.check_data(cls)
    return cls


def _made(
    cls: type[Exception],
    args: tuple[Any, ...],
    data: Json,
    make: Callable[[Any, tuple[Any, ...]], Any] = _of_args,
) -> Any:
    error = make(cls, args)
    for name, item in data["attrs"].items():
        if name.startswith("__"):
            continue  # of Python's own: never written
        # The message says more than an attribute of a class that is gone.
        with contextlib.suppress(UnstorableValueError):
            _set(error, name, decode(item))
    return error


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
    if type(stored) in (int, float):
        text = str(stored)
        return stored if hide(text) == text else hide(text)
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
    if stored.get("args", ())[1:] == ["latin-1"]:  # of a bytearray
        data = stored["args"][0].encode("latin-1")
        left = hide(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        return {**stored, "args": [left.decode("latin-1"), "latin-1"]}
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
