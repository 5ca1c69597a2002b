"""Generic models with their arguments, as they are stored: ``app:Page[app:Item]``.

pydantic makes the class of ``Page[Item]`` where that is written, so there is no name under which
another process could import it. What is stored are the names of what it is made of.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
import types
import typing
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin
from uuid import UUID
from weakref import WeakKeyDictionary

from pydantic import BaseModel, RootModel

from crewai_dbos._stored import modules
from crewai_dbos.errors import UnstorableValueError

_CONTAINERS = (list, dict, set, frozenset, tuple)
_OF_TYPING = {
    "List": list,
    "Dict": dict,
    "Set": set,
    "FrozenSet": frozenset,
    "Tuple": tuple,
}
_PLAIN = (str, int, float, bool, bytes, date, datetime, time, timedelta, Decimal, UUID, Path)
_WORDS = {"Any": Any, "None": None, "...": ...}

MOST = 5_000
"""Names in the paths that rows may have classes made of, all together."""

_tried: set[str] = set()
_names = 0

_spelled: WeakKeyDictionary[type, frozenset[str]] = WeakKeyDictionary()
"""The paths of generic models that the program has."""

_WORD = re.compile(r"[\w.:]+")


def is_path(path: str) -> bool:
    """Whether a stored path names a generic model with its arguments."""
    return path.endswith("]") and "[" in path


def is_generic(cls: type) -> bool:
    """Whether `cls` is a generic model with its arguments."""
    return _arguments(cls) is not None


def path(cls: type, name: Callable[[type], str]) -> str:
    """``module:Model[module:Argument, ...]`` of a generic model.

    Args:
        cls: Its class.
        name: Gives the path of a class that is none.

    Raises:
        UnstorableValueError: It, or an argument, can't be named.
    """
    origin, args = _arguments(cls) or (cls, ())
    return f"{name(origin)}[{', '.join(_written(arg, name) for arg in args)}]"


def before(path: str) -> str:
    """What stood for this path in earlier versions: arguments had no module, and were as Python
    shows them."""
    parts, at = [], 0
    while (found := path.find("Literal[", at)) >= 0:
        parts.append(_without_modules(path[at:found]))
        at = found + len("Literal")
        try:
            args, at = json.JSONDecoder().raw_decode(path, at)
        except ValueError:  # it is of an earlier version
            args, at = _as_python_shows_them(path, at)
        parts.append(f"Literal[{', '.join(map(repr, args))}]")
    return "".join([*parts, _without_modules(path[at:])])


def _as_python_shows_them(path: str, start: int) -> tuple[list[Any], int]:
    """The arguments of a ``Literal`` and where they end."""
    for match in re.finditer(r"\]", path[start:]):
        with contextlib.suppress(ValueError, SyntaxError):
            return list(ast.literal_eval(path[start : start + match.end()])), start + match.end()
    return [], len(path)


def _without_modules(path: str) -> str:
    path = re.sub(r"(?<=[\[ ])[\w.]+:", "", path)
    return re.sub(r"\bNone\b", "NoneType", re.sub(r"\bOr(?=\[)", "Union", path))


def load(path: str, resolve: Callable[[str], Any], name: Callable[[type], str]) -> Any:
    """The class that `path` names.

    It is made of models of the code that the definitions belong to and of plain types; of others it
    is one that the program has.

    Args:
        path: As `path` gives it, or as earlier versions did.
        resolve: Gives the class at the path of one that is no generic model.
        name: The reverse.

    Raises:
        UnstorableValueError: It is no such path, or names something else.
        LookupError: A class is not where it says.
    """
    origin = resolve(path[: path.index("[")])
    if _parameters(origin) is None:
        raise UnstorableValueError(f"{path} is no generic model")
    try:
        return _made(path, resolve)
    except (UnstorableValueError, LookupError):
        found = [cls for cls in type.__subclasses__(origin) if path in _paths(cls, name)]
        if not found:
            raise
        return found[-1]


def _made(path: str, resolve: Callable[[str], Any]) -> Any:
    global _names
    if path not in _tried:
        # Before it is made: one that fails has made the classes of its arguments.
        asked = len(_WORD.findall(path))
        if _names + asked > MOST:
            raise UnstorableValueError(f"{path} is one of more generic models than are made")
        _names += asked
        _tried.add(path)
    # By pydantic, which gives the class that the code gets that is running.
    return _Reader(path, resolve).read()


def _paths(cls: type, name: Callable[[type], str]) -> frozenset[str]:
    """What rows may call a class that the program has."""
    if (known := _spelled.get(cls)) is not None:
        return known
    if not is_generic(cls):
        return frozenset()
    before = f"{cls.__module__}:{cls.__qualname__}"
    try:
        return _spelled.setdefault(cls, frozenset([before, path(cls, name)]))
    except UnstorableValueError:  # it may be named later
        return frozenset([before])


def _metadata(cls: type) -> Any:
    # Not by getattr: a metaclass may do anything then.
    return vars(cls).get("__pydantic_generic_metadata__") or {}


def _arguments(cls: type) -> tuple[type, tuple[Any, ...]] | None:
    found = _metadata(cls)
    return (found["origin"], found["args"]) if found.get("args") else None


def _parameters(cls: type) -> Any:
    return _metadata(cls).get("parameters") or None


def _written(item: Any, name: Callable[[type], str]) -> str:
    for word, meant in _WORDS.items():
        if item is meant or (meant is None and item is type(None)):
            return word
    origin, args = get_origin(item), get_args(item)
    if origin is Literal and all(type(arg) in (str, int, bool, type(None)) for arg in args):
        return f"Literal{json.dumps(list(args))}"
    if origin is Union or origin is types.UnionType:
        return _listed("Union" if origin is Union else "Or", args, name)
    if origin in _CONTAINERS:
        builtin = isinstance(item, types.GenericAlias)
        of_typing = next(each for each, cls in _OF_TYPING.items() if cls is origin)
        return _listed(name(origin) if builtin else of_typing, args, name)
    if isinstance(item, type) and origin is None:
        return path(item, name) if is_generic(item) else name(item)
    raise UnstorableValueError(
        f"{item} is an argument of a generic model that has no form of its own. Derive a class at "
        "the top level of a module: class ItemPage(Page[...])."
    )


def _listed(what: str, args: tuple[Any, ...], name: Callable[[type], str]) -> str:
    return f"{what}[{', '.join(_written(arg, name) for arg in args)}]"


class _Reader:
    """Makes what a path names.

    Args:
        path: The path.
        resolve: Gives the class at the path of one that is no generic model.
    """

    def __init__(self, path: str, resolve: Callable[[str], Any]) -> None:
        self._path = path
        self._resolve = resolve
        self._at = 0

    def read(self) -> Any:
        try:
            made = self._type()
        except UnstorableValueError:
            raise
        except Exception as error:  # also pydantic's own
            raise UnstorableValueError(f"{self._path} can't be made ({error})") from error
        if self._at != len(self._path):
            raise UnstorableValueError(f"{self._path} is no path of a class")
        return made

    def _type(self) -> Any:
        match = _WORD.match(self._path, self._at)
        if match is None:
            raise UnstorableValueError(f"{self._path} is no path of a class")
        word, self._at = match.group(), match.end()
        if word == "Literal":
            args, self._at = json.JSONDecoder().raw_decode(self._path, self._at)
            return Literal[tuple(args)]
        if word in _WORDS:
            return _WORDS[word]
        args = self._args()
        if word in ("Union", "Or"):
            return Union.__getitem__(args) if word == "Union" else self._or(args)
        if word in _OF_TYPING:
            return getattr(typing, word)[args]
        return self._class(self._resolve(word), args)

    def _args(self) -> tuple[Any, ...]:
        if self._path[self._at : self._at + 1] != "[":
            return ()
        found = []
        while self._path[self._at] != "]":
            self._at += 2 if self._path[self._at] == "," else 1
            found.append(self._type())
            if self._path[self._at : self._at + 1] not in (",", "]"):
                raise UnstorableValueError(f"{self._path} is no path of a class")
        self._at += 1
        return tuple(found)

    def _or(self, args: tuple[Any, ...]) -> Any:
        made = args[0]
        for arg in args[1:]:
            made = made | arg
        return made

    def _class(self, cls: Any, args: tuple[Any, ...]) -> Any:
        if _is_one_of(cls, _CONTAINERS):
            return types.GenericAlias(cls, args) if args else cls
        if not _is_one_of(cls, (*_PLAIN, RootModel)) and not modules.is_trusted(cls):
            raise UnstorableValueError(
                f"{cls.__module__} is no module of a definition. To have generic models made of "
                f"its classes: crewai_dbos.allow_modules({cls.__module__!r})"
            )
        if not args:
            return cls
        if not issubclass(cls, BaseModel):
            raise UnstorableValueError(f"{cls.__qualname__} is no generic model")
        return cls[args]


def _is_one_of(cls: type, classes: tuple[type, ...]) -> bool:
    # Not by ==: a metaclass may do anything then.
    return any(cls is each for each in classes)
