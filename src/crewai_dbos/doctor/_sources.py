"""From functions to their code, and to the code of what they call."""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import PurePath
from types import FunctionType, ModuleType
from typing import Any

from crewai_dbos._dbos_seam.decorated import decorated_kind
from crewai_dbos.doctor._code import Code, Definition, is_attribute_of, is_users


class Sources:
    """Reads functions; a file is parsed once."""

    def __init__(self) -> None:
        self._files: dict[str, dict[tuple[str, int], Definition]] = {}

    def code_of(self, function: Any) -> Code | None:
        """The code of `function`; None without source, or if it is a library's or decorated.

        What a function decorated with DBOS does is recorded. Another decorator may do that too.
        """
        if not isinstance(function, FunctionType) or not is_users(function):
            return None
        if hasattr(function, "__wrapped__") or decorated_kind(function) is not None:
            return None
        code = function.__code__
        found = self._definitions(function).get((code.co_name, code.co_firstlineno))
        return None if found is None else Code(function, found)

    def _definitions(self, function: FunctionType) -> dict[tuple[str, int], Definition]:
        path = function.__code__.co_filename
        if path not in self._files:
            try:
                lines, _ = inspect.findsource(function)
                self._files[path] = _by_place("".join(lines))
            except (OSError, SyntaxError, ValueError):
                self._files[path] = {}
        return self._files[path]


def is_project_s(module: Any) -> bool:
    """Whether `module` is the user's own, and no library's."""
    path = getattr(module, "__file__", None)
    return path is not None and not _LIBRARIES & {*PurePath(path).parts}


_LIBRARIES = {"site-packages", *PurePath(os.__file__).parts[-2:-1]}
"""Folders that say that what is in them is not of the project."""


def parse_ahead(module: ModuleType) -> None:
    """Parse the file of a module now, for every process that is forked from this one."""
    with contextlib.suppress(OSError, TypeError, SyntaxError, ValueError):
        lines, _ = inspect.findsource(module)
        _by_place("".join(lines))


def followed(
    code: Code, code_of: Callable[[FunctionType], Code | None], cls: type | None = None
) -> list[Code]:
    """`code`, and the functions of its class and its project that it calls, and so on.

    Args:
        cls: Its class, if it is a method.
    """
    found, waiting = [code], [code]
    seen = {code.function}
    while waiting:
        caller = waiting.pop()
        for function in _callees(caller, cls):
            if function not in seen and _is_of_project(function, code.function):
                seen.add(function)
                if (callee := code_of(function)) is not None:
                    found.append(callee)
                    waiting.append(callee)
    return found


def _callees(code: Code, cls: type | None) -> Iterator[FunctionType]:
    for call in code.calls():
        function = code.resolve(call.func)
        if isinstance(function, FunctionType):
            yield function
        elif isinstance(call.func, ast.Attribute):
            own = is_attribute_of(call.func, code.first_argument)
            of = cls if own else code.resolve(call.func.value)
            if isinstance(of, type):
                member = inspect.getattr_static(of, call.func.attr, None)
                member = getattr(member, "__func__", member)
                if isinstance(member, FunctionType):
                    yield member


def _is_of_project(function: FunctionType, other: FunctionType) -> bool:
    """Whether `function` is no library's, but stands beside `other`, or below."""
    if function.__module__ == other.__module__:
        return True
    path = PurePath(function.__code__.co_filename)
    return "site-packages" not in path.parts and path.is_relative_to(_root(other))


def _root(function: FunctionType) -> PurePath:
    """The folder from which the module of `function` was imported."""
    path = PurePath(function.__code__.co_filename)
    depth = function.__module__.count(".") + (path.stem == "__init__")
    return path.parents[min(depth, len(path.parents) - 1)]


@functools.lru_cache(maxsize=64)
def _by_place(source: str) -> dict[tuple[str, int], Definition]:
    """The functions of a file, by name and first line; kept, as each definition is looked at."""
    found: dict[tuple[str, int], Definition] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            found[node.name, first] = node
    return found
