"""From ``module:object`` to what it stands for."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from crewai import Agent, Crew

from crewai_dbos._errors import DefinitionError
from crewai_dbos.doctor._report import Finding


class NotFoundError(Exception):
    """The import path leads nowhere; the message says where it ends."""


class BrokenDefinition(Exception):
    """The module does not import because a definition in it is refused."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.what)
        self.finding = finding


def load(path: str) -> tuple[Any, ModuleType]:
    """The object at ``module:object`` and its module.

    Raises:
        NotFoundError: There is none.
        BrokenDefinition: Importing the module raises a `DefinitionError`.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise NotFoundError(f"{path!r} is not an import path. It is module:object, as app:agent.")
    module = _imported(module_name)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise NotFoundError(f"{module_name} has no {name!r}. {_offer(module)}")
        found = getattr(found, part)
    if not isinstance(found, (Agent, Crew)):
        what = type(found).__name__
        raise NotFoundError(
            f"{path} is a {what}, not a DBOSAgent, an Agent or a Crew. {_offer(module)}"
        )
    return found, module


def _imported(module_name: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        with _quietly():
            return importlib.import_module(module_name)
    except DefinitionError as error:
        raise BrokenDefinition(_finding(error)) from error
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise NotFoundError(f"There is no module {error.name!r} here or installed.") from None
        raise NotFoundError(f"Importing {module_name} failed: {_one_line(error)}") from error
    except (Exception, SystemExit) as error:
        raise NotFoundError(f"Importing {module_name} failed: {_one_line(error)}") from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """What the module prints is not part of the report, and the report says what we would warn."""
    logger = logging.getLogger("crewai_dbos")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(level)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _finding(error: DefinitionError) -> Finding:
    what, _, fix = str(error).partition(". ")
    ours = os.path.dirname(os.path.dirname(__file__))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename[:1] != "<"]
    users = [frame for frame in frames if not frame.filename.startswith(ours)]
    where = f" ({users[-1].filename}, line {users[-1].lineno})" if users else ""
    return Finding("definition", "error", f"{what}{where}.", fix or "Change it there.")


def _offer(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, (Agent, Crew))]
    return f"It has: {', '.join(names)}." if names else "It has no agents or crews."
