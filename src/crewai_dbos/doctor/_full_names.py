"""What things are called in full: modules, classes, functions, and what is known by a name only."""

from __future__ import annotations

import inspect
import random
import secrets
import sys
from dataclasses import dataclass
from pathlib import PurePath
from types import ModuleType
from typing import Any

PATH = "pathlib.Path"
"""Stands for all classes of paths."""


@dataclass(frozen=True)
class Dotted:
    """Something that is known by its name only, as an attribute of a class."""

    name: str


def module_called(name: str) -> Any:
    """The module called `name`, if it is imported; else what is known of it."""
    return sys.modules.get(name) or Dotted(name)


def full_name(value: Any) -> str | None:
    """``module.name`` of a module, class or function, less private modules in between."""
    if isinstance(value, Dotted):
        return value.name
    if isinstance(value, ModuleType):
        return value.__name__
    if value is open:
        return "open"
    if not isinstance(value, type) and not inspect.isroutine(value):
        return None
    of = getattr(value, "__self__", None)
    if of is not None and not isinstance(of, (ModuleType, type)):
        owner = "numpy.random" if _is_of_numpy(of) else _GENERATORS.get(id(of))
        return None if owner is None else f"{owner}.{value.__name__}"
    module = (getattr(of, "__module__", None) if isinstance(of, type) else None) or getattr(
        value, "__module__", None
    )
    if module == "_sqlite3":
        module = "sqlite3"
    path = f"{module}.{value.__qualname__}".split(".")
    return ".".join(part for part in path if not part.startswith("_"))


def _is_of_numpy(value: Any) -> bool:
    """Whether this is the generator that the functions of ``numpy.random`` are methods of."""
    module = sys.modules.get("numpy.random")
    return module is not None and value is getattr(vars(module).get("rand"), "__self__", None)


def class_name(value: Any) -> str | None:
    """The full name of the class of an object that is no module, class or function."""
    if value is None or isinstance(value, (type, ModuleType, Dotted)) or inspect.isroutine(value):
        return None
    return PATH if isinstance(value, PurePath) else full_name(type(value))


# The functions of these modules are methods of an object in them.
_GENERATORS = {
    id(getattr(random.random, "__self__", None)): "random",
    id(getattr(secrets.choice, "__self__", None)): "secrets",
}
