"""What an object, a class or a function holds, as it lies in memory: nothing of it is called."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from crewai_dbos._functions import closure_of
from crewai_dbos._secrets.words import names_a_secret


class Member(NamedTuple):
    """Something that is held.

    Attributes:
        name: The field or variable that holds it.
        value: What is held.
        owner: What it is held by, in words.
    """

    name: str
    value: Any
    owner: str


# What is behind an object in the interpreter, or is data by the million.
_PASSED_OVER = frozenset(
    (
        *("threading", "_thread", "asyncio", "concurrent", "contextvars", "_contextvars", "queue"),
        *("logging", "opentelemetry", "rich", "re", "io", "_io", "inspect", "ast", "typing"),
        *("ssl", "_ssl", "socket", "_socket", "selectors", "anyio", "sniffio", "subprocess"),
        *("weakref", "_weakref", "builtins", "abc", "functools", "_functools", "enum"),
        *("datetime", "decimal", "uuid", "random", "numpy", "pandas", "torch", "pyarrow", "dbos"),
    )
)
# The description of a whole service of Amazon's, which an LLM of Bedrock holds.
_DESCRIPTIONS = ("botocore.endpoint_provider", "botocore.hooks", "botocore.loaders",
                 "botocore.model", "botocore.regions")  # fmt: skip
_MADE_WITH = frozenset({"crewai", "crewai_files", "crewai_dbos", "pydantic", "dbos"})
_HTTP = frozenset({"aiohttp", "httpx", "httpx2", "multidict", "requests", "starlette", "urllib3"})


def of_object(value: Any) -> Iterator[Member]:
    """The attributes of an object, private ones too, and those of its class if it is the user's."""
    cls = type(value)
    if _is_passed_over(cls.__module__):
        return
    fields = _fields(value)
    owner = f"the LLM {fields['model']!r}" if "llm_type" in fields else cls.__name__
    for name, item in fields.items():
        yield Member(name, item, owner)
    yield from of_class(cls)


def of_class(cls: type) -> Iterator[Member]:
    """What a class of the user's keeps for all its objects, and its methods."""
    for base in cls.__mro__:
        if _is_users(base):
            for name, value in list(vars(base).items()):
                value = getattr(value, "__func__", value)
                if isinstance(value, FunctionType) or not name.startswith("__"):
                    yield Member(name, value, base.__name__)


def of_function(function: FunctionType) -> Iterator[Member]:
    """What a function refers to in those around it, and by a secret's name in its module."""
    owner = f"{function.__name__}()"
    for name, value in closure_of(function).items():
        yield Member(name, value, owner)
    wrapped = getattr(function, "__wrapped__", None)
    if isinstance(wrapped, FunctionType):
        yield Member("__wrapped__", wrapped, owner)
    if not _is_users(function):
        return
    code = function.__code__
    for name in _names_in(code):
        if names_a_secret(name) and name in function.__globals__:
            yield Member(name, function.__globals__[name], function.__module__)
    arguments = reversed(code.co_varnames[: code.co_argcount])
    defaults = zip(arguments, reversed(function.__defaults__ or ()), strict=False)
    for name, value in (*defaults, *(function.__kwdefaults__ or {}).items()):
        yield Member(name, value, owner)


def is_url(value: Any) -> bool:
    """Whether `value` is an address as a library keeps it, whose text is all that it is."""
    cls = type(value)
    return cls.__name__.lower().endswith(("url", "dsn")) and not _is_users(cls)


def is_headers(value: Any) -> bool:
    """Whether `value` is a mapping of an HTTP library."""
    return type(value).__module__.partition(".")[0] in _HTTP and isinstance(value, Mapping)


@functools.lru_cache(maxsize=4096)
def _is_passed_over(module: str) -> bool:
    return module.partition(".")[0] in _PASSED_OVER or module.startswith(
        ("crewai_dbos._journal.", *_DESCRIPTIONS)
    )


def _fields(value: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, slot in _slots(type(value)).items():
        with contextlib.suppress(AttributeError):  # it is not filled
            fields[name] = slot.__get__(value)
    fields.pop("__pydantic_fields_set__", None)  # names only
    for name in ("__pydantic_private__", "__pydantic_extra__"):
        fields.update(fields.pop(name, None) or {})
    return {**fields, **getattr(value, "__dict__", {})}


_slots_of: WeakKeyDictionary[type, dict[str, Any]] = WeakKeyDictionary()


def _slots(cls: type) -> dict[str, Any]:
    found = _slots_of.get(cls)
    if found is None:
        held = ((name, each) for base in cls.__mro__ for name, each in vars(base).items())
        found = {name: each for name, each in held if inspect.ismemberdescriptor(each)}
        _slots_of[cls] = found
    return found


def _names_in(code: Any) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if inspect.iscode(constant):
            yield from _names_in(constant)


def _is_users(what: Any) -> bool:
    """Whether a class or function is the user's own, and not of a library."""
    return _is_of_the_user(what.__module__ or "")


@functools.lru_cache(maxsize=4096)
def _is_of_the_user(module: str) -> bool:
    package = module.partition(".")[0]
    if package in sys.stdlib_module_names or package in _MADE_WITH:
        return False
    path = getattr(sys.modules.get(module), "__file__", None) or ""
    return "site-packages" not in path and "dist-packages" not in path
