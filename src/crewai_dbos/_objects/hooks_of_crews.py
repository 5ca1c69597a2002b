"""Hooks that a crew brings: those that are methods of its ``@CrewBase`` class.

crewAI registers them for the whole process when an object of the class is made. Each run makes one
of its own, so what is registered meanwhile holds in that run only. Otherwise the hooks of all runs
before, and of those beside it, would be called as well.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from crewai.hooks import InterceptionPoint
from crewai.hooks.dispatch import HookFn, get_scoped_hooks, scoped_hooks

from crewai_dbos import _patches
from crewai_dbos._setting import setting

Hooks = list[tuple[InterceptionPoint, HookFn]]

_collected: ContextVar[Hooks | None] = ContextVar("crewai_dbos_collected_hooks", default=None)

_POINTS = {
    "register_before_llm_call_hook": InterceptionPoint.PRE_MODEL_CALL,
    "register_after_llm_call_hook": InterceptionPoint.POST_MODEL_CALL,
    "register_before_tool_call_hook": InterceptionPoint.PRE_TOOL_CALL,
    "register_after_tool_call_hook": InterceptionPoint.POST_TOOL_CALL,
}


@contextmanager
def collected() -> Iterator[Hooks]:
    """The hooks that what is built in the block brings; nobody calls them yet."""
    _patches.apply(_patches.BUILD)
    hooks: Hooks = []
    with setting(_collected, hooks):
        yield hooks


@contextmanager
def in_effect(hooks: Hooks) -> Iterator[None]:
    """In the block `hooks` are called too, after those of the process and of what is around."""
    if not hooks:
        yield
        return
    scope = {point: get_scoped_hooks(point) for point in InterceptionPoint}
    for point, hook in hooks:
        scope[point].append(hook)
    with scoped_hooks(scope):
        yield


def registering(register: Callable[..., None]) -> Callable[..., None]:
    """A function of crewAI's that registers a hook for the process, but where they are collected.

    It is given the hook, or its point and the hook.
    """
    point = _POINTS.get(register.__name__)

    @functools.wraps(register)
    def register_or_collect(*args: Any, **kwargs: Any) -> None:
        hooks = _collected.get()
        if hooks is None:
            register(*args, **kwargs)
            return
        given = [*args, *kwargs.values()] if point is None else [point, *args, *kwargs.values()]
        hooks.append((given[0], given[1]))

    return register_or_collect
