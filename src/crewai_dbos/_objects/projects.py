"""What callbacks leave in the object of a ``@CrewBase`` class, for those that come after them.

A recorded callback is not called again, so what it has set is stored with it and set again.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from crewai_dbos._functions import closure_of
from crewai_dbos._journal import run_scope
from crewai_dbos._secrets import known
from crewai_dbos._secrets.words import names_a_secret
from crewai_dbos._stored import codec

_CREWAIS = frozenset({"agents", "tasks"})
"""Attributes that crewAI fills when it makes the crew."""


def project_of(function: Any) -> Any:
    """The object of a ``@CrewBase`` class that a callback works with; None if there is none."""
    held = [function.__self__] if inspect.ismethod(function) else closure_of(function).values()
    return next((each for each in held if _is_project(each)), None)


def _is_project(value: Any) -> bool:
    return inspect.getattr_static(type(value), "is_crew_class", None) is True


def attributes(project: Any) -> dict[str, Any]:
    """What stands for each attribute of `project`, to see later which have changed."""
    if project is None:
        return {}
    own = {name: value for name, value in vars(project).items() if name not in _CREWAIS}
    return {name: _stands_for(value) for name, value in own.items()}


def changed(project: Any, before: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of `project` that are others than `before`, as far as they are stored."""
    now = attributes(project)
    found = {}
    for name, stands_for in now.items():
        if before.get(name, before) == stands_for:
            continue
        if why := _why_not(name, stands_for):
            run_scope.warn_once(
                f"A callback has set {name!r} of {type(project).__name__}, which is not stored "
                f"with the run ({why}). After recovery it is not set: make it in __init__, or "
                "where it is needed."
            )
        else:
            found[name] = vars(project)[name]
    return found


def _why_not(name: str, stands_for: Any) -> str:
    if isinstance(stands_for, _Unstorable):
        return stands_for.why
    if name.startswith("_"):
        return "its name is that of a private attribute"
    if names_a_secret(name) or any(known.found_in({name: stands_for})):
        return "it is a secret"
    return ""


def restore(project: Any, values: Mapping[str, Any]) -> None:
    """Set what a recorded callback has set, past whatever the class does with assignments."""
    if project is None:
        return
    kept = {name: value for name, value in values.items() if not name.startswith("_")}
    vars(project).update({name: value for name, value in kept.items() if name not in _CREWAIS})


class _Unstorable:
    """A value without a JSON form, which is the same as long as it is the same object."""

    def __init__(self, value: Any, why: str) -> None:
        self._value = value
        self.why = why

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unstorable) and self._value is other._value

    __hash__ = None  # type: ignore[assignment]


def _stands_for(value: Any) -> Any:
    try:
        return codec.encode(value)
    except Exception as error:  # another thread may be changing it
        return _Unstorable(value, str(error))
