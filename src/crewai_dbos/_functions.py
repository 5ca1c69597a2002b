"""What a callable of the user's says of itself, whatever it is.

A mock, or a proxy with a ``__getattr__`` that catches all, has any attribute that it is asked for.
So they are looked up where they lie.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


def attribute(function: Any, name: str, default: Any = None) -> Any:
    """The attribute `name` that `function` really has."""
    return inspect.getattr_static(function, name, default)


def name_of(function: Any) -> str:
    """The qualified name of a function; of another callable, that of its class."""
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else type(function).__qualname__


def look_like(call: Callable[..., Any], function: Any) -> None:
    """Give `call`, which stands in place of `function`, its name and signature."""
    if inspect.isroutine(function) or isinstance(function, functools.partial):
        functools.update_wrapper(call, function)
    else:
        call.__name__ = type(function).__name__
        call.__qualname__ = type(function).__qualname__
        call.__doc__ = None
        vars(call)["__wrapped__"] = function


def closure_of(function: Any) -> dict[str, Any]:
    """What a function refers to in the functions around it, by name, as far as it is set."""
    if not inspect.isfunction(function) or function.__closure__ is None:
        return {}
    cells = zip(function.__code__.co_freevars, function.__closure__, strict=True)
    return {name: cell.cell_contents for name, cell in cells if _filled(cell)}


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
