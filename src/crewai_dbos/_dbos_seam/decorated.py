"""What functions are decorated with, and what of them DBOS has registered."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import dbos._dbos as _dbos_module
from dbos._datasource import AsyncSQLAlchemyDatasource, SQLAlchemyDatasource
from dbos._registrations import get_dbos_func_name

from crewai_dbos._functions import attribute, closure_of

__all__ = ["decorated_kind", "get_dbos_func_name", "registered_functions", "step_options_of"]


def decorated_kind(function: Any) -> str | None:
    """``"step"``, ``"workflow"``, ``"transaction"`` (of a datasource), or None for a plain one."""
    for layer in _layers(function):
        name = attribute(layer, "dbos_function_name")
        if name is not None:
            original = attribute(layer, "__orig_func")
            temporary = str(attribute(original, "dbos_function_name", "")).startswith("<temp>.")
            if original is not None:
                return "step" if temporary else "workflow"
        if isinstance(
            closure_of(layer).get("self"), (SQLAlchemyDatasource, AsyncSQLAlchemyDatasource)
        ):
            return "transaction"
    return None


def step_options_of(function: Any) -> dict[str, Any]:
    """The options given to ``@DBOS.step(...)`` on `function`: `dbos.StepOptions` less the name."""
    for layer in _layers(function):
        found = closure_of(layer)
        if "retries_allowed" in found:
            names = (
                "retries_allowed",
                "interval_seconds",
                "max_attempts",
                "backoff_rate",
                "should_retry",
                "preemptible",
                "timeout_seconds",
            )
            return {name: found.get(name) for name in names}
    raise TypeError(f"{function!r} is not decorated with DBOS.step")


def _layers(function: Any) -> Iterator[Any]:
    seen: set[int] = set()
    while function is not None and id(function) not in seen:
        seen.add(id(function))
        if inspect.ismethod(function):
            function = function.__func__
        yield function
        function = attribute(function, "__wrapped__")


def registered_functions() -> tuple[list[str], list[str]]:
    """The names of the workflows and of the steps that are registered in this process."""
    names = list(_dbos_module._get_or_create_dbos_registry().workflow_info_map)
    steps = [name.removeprefix("<temp>.") for name in names if name.startswith("<temp>.")]
    return [name for name in names if not name.startswith("<temp>.")], steps
