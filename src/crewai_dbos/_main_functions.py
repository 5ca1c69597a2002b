"""What a thread, a job or an asyncio task is there for, and whether code is a part of that."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from contextvars import Context
from types import CodeType, FrameType
from typing import Any

from crewai_dbos import _leases


def has_own_context(function: Any) -> bool:
    """Whether `function` is the `run` of a context that somebody has chosen."""
    return isinstance(getattr(function, "__self__", None), Context)


def module_of(function: Any) -> str:
    """The module of a function; "" if it has none."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__module__", None) or "")


def code_of(function: Any, args: tuple[Any, ...]) -> CodeType | None:
    """The code that ``function(*args)`` comes down to; None if it is not Python's."""
    while isinstance(function, functools.partial) or has_own_context(function):
        if isinstance(function, functools.partial):
            function, args = function.func, (*function.args, *args)
        elif args:
            function, args = args[0], args[1:]
        else:
            return None
    function = inspect.unwrap(function)
    if callable(function) and not hasattr(function, "__code__"):
        # A method has the code of its function; another object is called through its class.
        function = type(function).__call__
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None


def _here() -> CodeType | None:
    """The main function of this task, pool job or thread; None in the main thread."""
    if (task := _task()) is not None:
        return getattr(task.get_coro(), "cr_code", None)
    lease = _leases.own()
    if lease is not None and lease.main is not None:
        return lease.main
    thread: Any = threading.current_thread()
    if thread is threading.main_thread():
        return None
    target = getattr(thread, "_target", None)
    if target is None:
        return code_of(type(thread).run, ())
    return code_of(target, getattr(thread, "_args", ()))


def _task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def is_served(frame: FrameType | None, beside: tuple[str, ...]) -> bool:
    """Whether `frame` is the main function's, or one of its own package that it has called.

    What a library takes out of a queue of its own, deeper in the stack, is no job.

    Args:
        frame: Where something was taken out of a queue.
        beside: Modules to look past: those of the queue.
    """
    main = _here()
    if main is None:
        return False
    while frame is not None and _name(frame) in beside:
        frame = frame.f_back
    package = _package(frame)
    while frame is not None and _package(frame) == package:
        if frame.f_code is main:
            return True
        frame = frame.f_back
    return False


def _name(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _package(frame: FrameType | None) -> str:
    return "" if frame is None else _name(frame).partition(".")[0]
