"""From ``module:object`` to what it stands for."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class NotFoundError(ValueError):
    """The import path leads nowhere; the message says where it ends."""


def look_here() -> None:
    """Have modules in the working directory found, as ``python -m`` does."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def split(path: str) -> tuple[str, str]:
    """The names of the module and of the object.

    Raises:
        NotFoundError: There are not both.
    """
    where, _, name = path.partition(":")
    if not where or not name:
        raise NotFoundError(f"{path!r} is not an import path. It is module:object, as app:agent.")
    return where, name


def _similar(module: ModuleType, name: str) -> str:
    close = difflib.get_close_matches(name, vars(module), 1)
    return f"Did you mean {close[0]!r}?" if close else "Look for a misspelling."


def load(path: str, offer: Callable[[ModuleType, str], str] = _similar) -> Any:
    """The object at ``module:object``.

    Args:
        path: The import path.
        offer: What to write instead of a name that the module does not have.

    Raises:
        NotFoundError: There is none. If importing the module failed, that error is its cause.
    """
    module_name, name = split(path)
    imported = module(module_name)
    found: Any = imported
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise NotFoundError(f"{module_name} has no {name!r}. {offer(imported, name)}") from None
        except Exception as error:
            raise NotFoundError(f"Reading {part} of {path} failed: {_in_a_line(error)}") from error
    return found


def module(name: str) -> ModuleType:
    """The module, imported.

    Raises:
        NotFoundError: There is none. If importing it failed, that error is its cause.
    """
    if name.startswith(".") or "/" in name or name.endswith(".py"):
        raise NotFoundError(
            f"{name!r} is not the name of a module. Write it as an import statement does, from "
            "the folder that it is in."
        )
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise NotFoundError(f"There is no module {error.name!r} here or installed.") from None
        raise _failed(name, error) from error
    except (Exception, SystemExit) as error:
        raise _failed(name, error) from error


def _failed(name: str, error: BaseException) -> NotFoundError:
    return NotFoundError(f"Importing {name} failed: {_in_a_line(error)}")


def _in_a_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
