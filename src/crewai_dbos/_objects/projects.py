"""What callbacks leave in the object of a ``@CrewBase`` class, for those that come after them.

A recorded callback is not called again, so what it has set is stored with it and set again.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from crewai_dbos._dbos_seam import closure_of
from crewai_dbos._journal import run_scope
from crewai_dbos._stored import codec
from crewai_dbos.errors import UnstorableValueError

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
    """The attributes of `project` that are others than `before`, as far as they can be stored."""
    now = attributes(project)
    names = [name for name, found in now.items() if before.get(name, before) != found]
    for name in names:
        if isinstance(now[name], _Unstorable):
            run_scope.warn_once(
                f"A callback has set {name!r} of {type(project).__name__}, which can't be stored "
                f"with the run ({now[name].why}). After recovery it is not set: make it in "
                "__init__, or where it is needed."
            )
    return {
        name: getattr(project, name) for name in names if not isinstance(now[name], _Unstorable)
    }


def restore(project: Any, values: Mapping[str, Any]) -> None:
    """Set what a recorded callback has set."""
    for name, value in values.items():
        setattr(project, name, value)


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
    except (UnstorableValueError, RecursionError) as error:
        return _Unstorable(value, str(error))
