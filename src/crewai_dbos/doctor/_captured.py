"""What a function carries with it that is not in the module it is defined in."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from datetime import date, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from types import ModuleType
from typing import Any, cast
from uuid import UUID

from crewai.events import BaseEventListener
from pydantic import BaseModel

from crewai_dbos._functions import closure_of

_CONSTANT = (
    *(type(None), str, bytes, int, float, complex, type, ModuleType),
    *(Enum, re.Pattern, PurePath, date, time, timedelta, tzinfo, Decimal, UUID),
    # Nobody holds one in a fresh process.
    *(type(threading.Lock()), type(threading.RLock()), asyncio.Lock),
    # A logger's state is no run's, and a listener is how crewAI wants handlers to be written.
    *(logging.Logger, BaseEventListener),
)


def captured_state(function: Any) -> list[str]:
    """The objects that can change between two calls of `function`, as ``name (class)``.

    Its closure, its defaults and the arguments of a `functools.partial` are looked at, module
    globals and the object of a bound method are not.
    """
    return sorted({f"{name} ({type(value).__name__})" for name, value in _carried(function)})


def _carried(function: Any) -> Iterator[tuple[str, Any]]:
    while isinstance(function, functools.partial):
        named = {f"argument {place}": value for place, value in enumerate(function.args, 1)}
        yield from _changing({**named, **function.keywords})
        function = function.func
    function = inspect.unwrap(function)
    if not inspect.isfunction(function):
        return
    yield from _changing(closure_of(function))
    yield from _changing(
        {
            name: parameter.default
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.default is not parameter.empty
        }
    )


def _changing(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in values.items() if not _is_constant(value))


def _is_constant(value: Any) -> bool:
    if isinstance(value, (tuple, frozenset)):
        return all(map(_is_constant, value))
    if isinstance(value, _CONSTANT) or inspect.isroutine(value):
        return True
    if isinstance(value, BaseModel):
        return bool(value.model_config.get("frozen"))
    if is_crew_base(type(value)):  # its attributes are stored with the calls of its crew
        return True
    return is_dataclass(value) and bool(cast(Any, value).__dataclass_params__.frozen)


def is_crew_base(value: Any) -> bool:
    """Whether this is a class decorated with ``@CrewBase``."""
    return isinstance(value, type) and vars(value).get("is_crew_class") is True
