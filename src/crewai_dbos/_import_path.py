"""From ``module:object``, or the path of a module's file, to what it stands for."""

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
    where, name = split(path)
    return _inside(module(where), where, name, offer)


def target(path: str, offer: Callable[[ModuleType, str], str] = _similar) -> tuple[ModuleType, Any]:
    """What a command is given that works with definitions: ``app``, or ``app:agent``.

    Args:
        path: The import path of a module, or of an object in it.
        offer: As of `load`.

    Returns:
        The module, and the object; None if only the module is named.

    Raises:
        NotFoundError: There is none. If importing the module failed, that error is its cause.
    """
    where, colon, name = path.partition(":")
    if not where or (colon and not name):
        raise NotFoundError(
            f"{path!r} is not an import path. It is a module, or module:object: app, or app:agent."
        )
    imported = module(where)
    if not colon:
        return imported, None
    return imported, _inside(imported, where, name, offer)


def _inside(
    imported: ModuleType, where: str, name: str, offer: Callable[[ModuleType, str], str]
) -> Any:
    found: Any = imported
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise NotFoundError(f"{where} has no {name!r}. {offer(imported, name)}") from None
        except Exception as error:
            raise NotFoundError(
                f"Reading {part} of {where}:{name} failed: {_in_a_line(error)}"
            ) from error
    return found


def module(name: str) -> ModuleType:
    """The module, imported.

    Args:
        name: As an import statement has it, or the path of its file: ``src/shop/app.py``.

    Raises:
        NotFoundError: There is none. If importing it failed, that error is its cause.
    """
    if os.sep in name or name.endswith(".py"):
        return _of_file(name)
    if name.startswith("."):
        raise _no_module(name)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise NotFoundError(f"There is no module {error.name!r} here or installed.") from None
        raise _failed(name, error) from error
    except (Exception, SystemExit) as error:
        raise _failed(name, error) from error


def _of_file(path: str) -> ModuleType:
    """The module in a file, under the name that it has for the programs in its folder.

    That of a package is the whole one, as its modules import each other by that.
    """
    file = os.path.realpath(path)
    if os.path.isdir(file):
        file = os.path.join(file, "__init__.py")
    if not os.path.isfile(file):
        raise _no_module(path)
    folder, base = os.path.split(file)
    stem, ending = os.path.splitext(base)
    names = [] if stem == "__init__" else [stem]
    while os.path.exists(os.path.join(folder, "__init__.py")):
        folder, package = os.path.split(folder)
        names.insert(0, package)
    if ending != ".py" or not all(name.isidentifier() for name in names):
        raise NotFoundError(f"{path!r} has a name that no import statement can have. Rename it.")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    found = module(".".join(names))
    there = getattr(found, "__file__", None)
    if there is None or os.path.realpath(there) != file:
        raise NotFoundError(
            f"{path!r} is imported as {found.__name__}, and that is another module here: {there}."
        )
    return found


def _no_module(name: str) -> NotFoundError:
    return NotFoundError(
        f"{name!r} is not the name of a module, as an import statement has it, nor the path of its "
        "file."
    )


def _failed(name: str, error: BaseException) -> NotFoundError:
    return NotFoundError(f"Importing {name} failed: {_in_a_line(error)}")


def _in_a_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
