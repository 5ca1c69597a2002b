"""Which of the waiting runs this process takes from DBOS's queues: a condition of ours on a row.

DBOS asks `_claim_gate` for what a row has to meet beside its own conditions. It does not where it
takes from a queue with one place in each partition; there it asks `_name_filter` whose a row is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from crewai_dbos._dbos_seam.instance import launched_instance

Condition = sa.ColumnElement[bool]
Fits = Callable[[sa.FromClause, bool], Condition]
"""Whether a row of the table of workflows is one that this process takes; the flag: on SQLite."""

_fits: Fits | None = None
_sweep = threading.local()


def confine(fits: Fits | None) -> None:
    """From now on take only what fits; None to take all, as DBOS does."""
    global _fits
    _fits = fits


def workflows() -> list[str]:
    """The names of the workflows that this process has."""
    return sorted(launched_instance()._registry.workflow_info_map)


def instances() -> list[str]:
    """The configured instances that this process has, as ``class/name``."""
    return sorted(launched_instance()._registry.instance_info_map)


def gating(claim_gate: Callable[..., list[Condition]]) -> Callable[..., list[Condition]]:
    """Have a claim take only what fits."""

    def gate(self: Any, *args: Any, **kwargs: Any) -> list[Condition]:
        fits, conditions = _fits, claim_gate(self, *args, **kwargs)
        if fits is None:
            return conditions
        return [*conditions, fits(self.tables.workflow_status, _is_sqlite(self))]

    return gate


def sweeping(start_queued_partitioned_workflows: Callable[..., Any]) -> Callable[..., Any]:
    """Say in the call that rows are taken, and from what kind of database."""

    def start(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = getattr(_sweep, "on_sqlite", None)
        _sweep.on_sqlite = _is_sqlite(self)
        try:
            return start_queued_partitioned_workflows(self, *args, **kwargs)
        finally:
            _sweep.on_sqlite = before

    return start


def filtering(name_filter: Any) -> Any:
    """Have the rows of this application be those that fit, while rows are taken."""

    def filter(column: Any, value: Any) -> Condition:
        found: Condition = name_filter.__func__(column, value)
        fits, on_sqlite = _fits, getattr(_sweep, "on_sqlite", None)
        table = getattr(column, "table", None)
        if fits is None or on_sqlite is None or table is None or "attributes" not in table.c:
            return found
        return sa.and_(found, fits(table, on_sqlite))

    return staticmethod(filter)


def _is_sqlite(system: Any) -> bool:
    return str(system.engine.dialect.name) == "sqlite"
