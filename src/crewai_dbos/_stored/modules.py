"""The modules that a stored class may come from.

A row of a database is data: that it names a module is no reason to import it. A class is taken from
a module that is imported already. One that is not is imported only if the code of a definition
would do so itself, or if the application has allowed it.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import sys
from collections.abc import Iterable
from functools import lru_cache
from types import ModuleType

from crewai_dbos._stored import main_module
from crewai_dbos.errors import UnstorableValueError

_allowed: set[str] = set()
_defining: set[str] = set()


def allow_modules(*names: str) -> None:
    """Let recorded runs name classes of modules that nothing else would import.

    A class that a run has recorded is looked up in the modules that are imported when the run goes
    on, and in those that the modules of its definition import anywhere, functions included. Call
    this where the definition is built, for others. What makes the default of a field that such a
    class has gained is called, too.

    Args:
        names: Modules by their full name, as ``"app.models"``; those below one are allowed with it.

    Raises:
        TypeError: A name is no text.

    Example::

        from crewai_dbos import allow_modules

        allow_modules("app.plugins")
    """
    for name in names:
        if not isinstance(name, str) or not name:
            raise TypeError(f"allow_modules takes names of modules, not {name!r}")
    _allowed.update(names)


def defined_in(names: Iterable[str | None]) -> None:
    """Take note of modules that a definition is made of."""
    _defining.update(name for name in names if name)


def of_definitions() -> list[ModuleType]:
    """The imported modules that definitions are made of."""
    return [sys.modules[name] for name in sorted(_defining) if name in sys.modules]


def main_has_no_name() -> bool:
    """Whether a definition is made of the program itself, which no other process can import."""
    return any(map(main_module.is_main, _defining)) and main_module.real_name() is None


def module(name: str) -> ModuleType:
    """The module called `name`.

    Raises:
        UnstorableValueError: It is not imported, and nothing but the row asks for it.
        ImportError: It may be imported, but can't be.
    """
    found = main_module.loaded(name)
    if found is None and _may_import(name):
        found = importlib.import_module(name)
    if found is None:
        raise UnstorableValueError(
            f"the module {name!r} is not imported in this process, and a row of the database is no "
            f"reason to import it. Import it where the agent, crew or flow is defined, or call "
            f"crewai_dbos.allow_modules({name!r}) there"
        )
    return found


def may_be_called(factory: object, cls: type) -> bool:
    """Whether `factory` may make the default of an attribute of `cls`, which a row has named.

    What the standard library makes of nothing is harmless. Else `cls` has to be of the code that
    the definitions of this process belong to, or of a module that is allowed.
    """
    harmless = ("builtins", "collections", "_thread", "threading", "asyncio.locks", "weakref")
    if getattr(factory, "__module__", "") in harmless:
        return True
    return is_trusted(cls)


def is_trusted(cls: type) -> bool:
    """Whether code of `cls` may run because a row names it: its own package's, or allowed."""
    return is_of_a_definition(cls) or _is_allowed(cls.__module__)


def is_of_a_definition(cls: type) -> bool:
    """Whether `cls` is of the code that the definitions of this process belong to."""
    return cls.__module__.partition(".")[0] in _packages()


def _packages() -> set[str]:
    return {each.partition(".")[0] for each in _defining}


def _is_allowed(name: str) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in _allowed)


def _may_import(name: str) -> bool:
    if _is_allowed(name):
        return True
    packages = _packages()
    loaded = [each for each in list(sys.modules) if each.partition(".")[0] in packages]
    return any(name in _imports_of(each) for each in loaded)


@lru_cache(maxsize=4096)
def _imports_of(name: str) -> frozenset[str]:
    """The modules that the source of the imported module `name` imports, anywhere in it."""
    loaded = sys.modules.get(name)
    package = getattr(loaded, "__package__", None) or ""
    found: set[str] = set()
    nodes: list[ast.AST] = []
    with contextlib.suppress(OSError, TypeError, SyntaxError):  # there is no source
        nodes = list(ast.walk(ast.parse(inspect.getsource(loaded))))  # type: ignore[arg-type]
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return frozenset(found)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, *filter(None, [node.module])])
