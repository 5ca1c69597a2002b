"""Hooks that are methods of a ``@CrewBase`` class, in a process that makes many objects of it.

crewAI registers them for the process when an object is made. So it is here with the objects that
durable agents, crews and flows are defined with. Those that runs are built with stand in for them:
what is registered calls the hooks of the run's own object there. Otherwise the hooks of all runs
before, and of those beside it, would be called as well.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from crewai.hooks import InterceptionPoint, get_hooks
from crewai.hooks.dispatch import HookFn, register

from crewai_dbos import _patches
from crewai_dbos._leases import RunVar
from crewai_dbos._setting import setting

_POINTS = {
    "register_before_llm_call_hook": InterceptionPoint.PRE_MODEL_CALL,
    "register_after_llm_call_hook": InterceptionPoint.POST_MODEL_CALL,
    "register_before_tool_call_hook": InterceptionPoint.PRE_TOOL_CALL,
    "register_after_tool_call_hook": InterceptionPoint.POST_TOOL_CALL,
}

Hooks = list[tuple[InterceptionPoint, HookFn]]


@dataclass(eq=False)
class Project:
    """An object of a ``@CrewBase`` class.

    Attributes:
        which: Its class, and how many of that were made before it in the same build.
        hooks: Its hooks, each with its point.
        registered: What is registered of it for the process.
    """

    which: tuple[type, int]
    hooks: Hooks
    registered: Hooks


_made: ContextVar[list[Project] | None] = ContextVar("crewai_dbos_made_projects", default=None)
"""Those of the run that is being built."""
_defined: ContextVar[list[Project] | None] = ContextVar("crewai_dbos_defined", default=None)
"""Those of the definition that is being built."""
_taken: ContextVar[Hooks | None] = ContextVar("crewai_dbos_taken_hooks", default=None)
_of_run: RunVar[tuple[Project, ...]] = RunVar("crewai_dbos_projects", default=())

_first: dict[tuple[type, int], Project] = {}
"""By its class and number, the one for which those of runs stand in."""
_lock = threading.Lock()


@contextmanager
def defined() -> Iterator[None]:
    """What is built in the block is that of no run, unless a run is being built with it."""
    _patches.apply(_patches.BUILD)
    with setting(_defined, []):
        yield


@contextmanager
def of_run() -> Iterator[list[Project]]:
    """What is built in the block is that of a run. Yields the projects that are made in it."""
    _patches.apply(_patches.BUILD)
    made: list[Project] = []
    with setting(_made, made):
        yield made


@contextmanager
def in_effect(made: list[Project]) -> Iterator[None]:
    """In the block the projects of a run stand in for those of their classes."""
    with setting(_of_run, (*_of_run.get(), *made)):
        yield


def noting(register_hooks: Callable[..., None]) -> Callable[..., None]:
    """crewAI's function that registers the hooks of a project."""

    @functools.wraps(register_hooks)
    def register_or_note(instance: Any, cls: type) -> None:
        made = _made.get()
        beside = _defined.get() if made is None else made
        if beside is None:
            register_hooks(instance, cls)
            return
        hooks: Hooks = []
        with setting(_taken, hooks):
            register_hooks(instance, cls)
        if not hooks:
            return
        number = sum(each.which[0] is cls for each in beside)
        project = Project((cls, number), hooks, [])
        beside.append(project)
        with _lock:
            if made is None or not _is_registered(_first.get(project.which)):
                _register(project)

    return register_or_note


def taking(register_hook: Callable[..., None]) -> Callable[..., None]:
    """A function of crewAI's that registers a hook, with which `noting` sees those of a project.

    It is given the hook, or its point and the hook.
    """
    point = _POINTS.get(register_hook.__name__)

    @functools.wraps(register_hook)
    def register_or_take(*args: Any, **kwargs: Any) -> None:
        hooks = _taken.get()
        if hooks is None:
            register_hook(*args, **kwargs)
        else:
            hooks.append(args if point is None else (point, *args))

    return register_or_take


def _is_registered(project: Project | None) -> bool:
    return project is not None and all(
        hook in get_hooks(point) for point, hook in project.registered
    )


def _register(project: Project) -> None:
    if not _is_registered(_first.get(project.which)):
        _first[project.which] = project
    for place, (point, hook) in enumerate(project.hooks):
        standing_in = _with_stand_in(project, place, hook)
        project.registered.append((point, standing_in))
        register(point, standing_in)


def _with_stand_in(project: Project, place: int, hook: HookFn) -> HookFn:
    """`hook`, for which in a run with projects of its own that of the innermost is called."""

    @functools.wraps(hook)
    def call(context: Any) -> Any:
        own = [each for each in _of_run.get() if each.which == project.which]
        if not own:
            return hook(context)
        # Else once for each that is registered.
        return own[-1].hooks[place][1](context) if _first.get(project.which) is project else None

    return call
