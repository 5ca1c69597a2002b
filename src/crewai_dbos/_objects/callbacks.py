"""Functions of the user's that crewAI calls: callbacks, guardrails, conditions.

Each call is one entry, made when the function has returned. What it does with DBOS or a durable
agent is recorded inside, so a call that a crash cut short is made again from its own record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel

from crewai_dbos._functions import attribute, look_like, name_of
from crewai_dbos._journal import run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._objects import projects
from crewai_dbos._stored import codec
from crewai_dbos._stored.digest import digest
from crewai_dbos._threads import finished
from crewai_dbos.errors import UnstorableInputError, UnstorableValueError

_RECORDED = "_crewai_dbos_recorded"


def recorded(
    function: Any,
    what: str,
    *,
    keep: bool = False,
    known: Iterable[type] = (),
    once: bool = False,
) -> Callable[..., Any]:
    """`function`, which is not called again for what is recorded.

    Args:
        function: Sync or async; sync from now on.
        what: Names its entries, which follow one another.
        keep: Whether crewAI uses what it returns.
        known: Classes that may occur in that without being importable.
        once: Whether a second call that is recorded behind one is of the same function: up to 0.2.0
            one that a task and its crew had was called twice.
    """
    if is_recorded(function):
        return recorded(original(function), what, keep=keep, known=known, once=once)
    known = tuple(known)
    name = name_of(function)

    def call(*args: Any, **kwargs: Any) -> Any:
        scope = run_scope.around()
        if scope is None or run_scope.enclosing() is None:
            return function(*args, **kwargs)
        scope = scope.around or scope

        project = projects.project_of(function)
        made: list[bool] = []

        def work() -> dict[str, Any]:
            made.append(True)
            had = projects.attributes(project)
            before = [_state(arg) for arg in args]
            returned = finished(function(*args, **kwargs))
            done: dict[str, Any] = {"returned": returned if keep else None}
            changes = [_changes(arg, state) for arg, state in zip(args, before, strict=True)]
            if any(changes):
                done["changed"] = changes
            if left := projects.changed(project, had):
                done["left"] = left
            _check(what, name, done, known)
            return done

        entry = Call(what, kind=what, known=known)
        done = dict(scope.group(entry, work, sequential=True))
        if once and scope.is_recorded(what):
            scope.group(entry, work, sequential=True)
        if not made:
            projects.restore(project, done.get("left", {}))
        for arg, changed in zip(args, done.get("changed", ()), strict=False):
            for field in _fields(arg):
                if field in changed:
                    setattr(arg, field, changed[field])
        return done["returned"]

    look_like(call, function)
    setattr(call, _RECORDED, function)
    return call


def is_recorded(function: Any) -> bool:
    """Whether `function` is one that `recorded` has made."""
    return attribute(function, _RECORDED) is not None


def original(function: Any) -> Any:
    """The user's function that `function` stands in place of, or `function`."""
    return attribute(function, _RECORDED, function)


def _state(arg: Any) -> dict[str, str]:
    """A digest of each field of what a callback is given, and may change."""
    return {field: digest(getattr(arg, field)) for field in _fields(arg)}


def _changes(arg: Any, before: dict[str, str]) -> dict[str, Any]:
    return {
        field: getattr(arg, field)
        for field, was in before.items()
        if digest(getattr(arg, field)) != was
    }


def _fields(arg: Any) -> list[str]:
    """The names of what `arg` has, if it is a model or, as what a step leads to, a dataclass."""
    if isinstance(arg, BaseModel):
        return [field for field in type(arg).model_fields if field in arg.__dict__]
    if not dataclasses.is_dataclass(arg) or isinstance(arg, type):
        return []
    return [field.name for field in dataclasses.fields(arg) if hasattr(arg, field.name)]


def _check(what: str, name: str, done: dict[str, Any], known: tuple[type, ...]) -> None:
    try:
        codec.encode(done, known)
    except UnstorableValueError as error:
        raise UnstorableInputError(
            f"What the {what} function {name} returned or changed can't be stored with the run: "
            f"{error}"
        ) from None
