"""Which of the waiting runs this process takes from DBOS's queues: a condition of ours on a row.

A worker has one for good. Any process has one for the second after its launch, in which it looks
more often than DBOS would, so that its runs go on at once. One whose code is imported later is left
until DBOS would have taken it.

DBOS asks `_claim_gate` for what a row has to meet beside its own conditions. It does not where it
takes from a queue with one place in each partition; there it asks `_name_filter` whose a row is.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from crewai_dbos import _clock
from crewai_dbos._dbos_seam.instance import launched_instance

Condition = sa.ColumnElement[bool]
Fits = Callable[[sa.FromClause, bool], Condition]
"""Whether a row of the table of workflows is one that this process takes; the flag: on SQLite."""

_fits: Fits | None = None
_early: tuple[Fits, float] | None = None
_sweep = threading.local()


def confine(fits: Fits | None) -> None:
    """From now on take only what fits; None to take all, as DBOS does."""
    global _fits
    _fits = fits


OFTEN = 0.1
"""Seconds between looks soon after a launch."""

WITH_CARE = 0.95
"""Seconds after a launch in which only what fits is taken. DBOS itself looks first after that."""

SOON = 5.0
"""Seconds after a launch in which there are such looks at most, if the last of them fails."""


class _Pace:
    """How often DBOS looks for runs that are recovered, resumed or forked."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._usual: float = queue._polling_interval_sec
        self._timer = threading.Timer(SOON, self.slow_down)
        self._timer.daemon = True
        self._is_hurried = False

    def saw(self, queue_name: str) -> None:
        """A look has taken what DBOS would have taken: its own follow."""
        if queue_name == self._queue.name:
            self.slow_down()

    def hurry(self) -> None:
        self._is_hurried = True
        self._queue._polling_interval_sec = OFTEN

    def slow_down_soon(self) -> None:
        self._timer.start()

    def slow_down(self) -> None:
        """Once; what somebody has said since then stays."""
        self._timer.cancel()
        hurried, self._is_hurried = self._is_hurried, False
        if hurried and self._queue._polling_interval_sec == OFTEN:
            self._queue._polling_interval_sec = self._usual


_pace: _Pace | None = None


@contextmanager
def looking_soon(fits: Fits) -> Iterator[None]:
    """The block launches DBOS, which then looks soon for runs that fit.

    These are recovered, resumed and forked ones, which come from no queue of the user's.
    Where somebody has said how often DBOS is to look for them, it does so.
    """
    global _early, _pace
    if _pace is not None:
        _pace.slow_down()  # of a launch just before
    _early = _pace = None
    queue = launched_instance()._registry.get_internal_queue()
    if queue._polling_interval_sec <= WITH_CARE:
        yield
        return
    _pace = pace = _Pace(queue)
    _early = (fits, math.inf)  # the launch takes time, too
    pace.hurry()
    try:
        yield
    except BaseException:
        pace.slow_down()
        _early = None
        raise
    pace.slow_down_soon()
    _early = (fits, _clock.seconds() + WITH_CARE)


def _now() -> Fits | None:
    """What a claim has to fit that is made now."""
    global _early
    early = _early
    if early is not None and _clock.seconds() >= early[1]:
        _early = early = None
    return _fits or (None if early is None else early[0])


def queues() -> list[str] | None:
    """The names of the queues that this process takes runs from; None if from all."""
    dbos = launched_instance()
    if dbos._listening_queues is None:
        return None
    return [*(queue.name for queue in dbos._registry.internal_queues()), *dbos._listening_queues]


def workflows() -> list[str]:
    """The names of the workflows that this process has."""
    return sorted(launched_instance()._registry.workflow_info_map)


def instances() -> list[str]:
    """The configured instances that this process has, as ``class/name``."""
    return sorted(launched_instance()._registry.instance_info_map)


def gating(claim_gate: Callable[..., list[Condition]]) -> Callable[..., list[Condition]]:
    """Have a claim take only what fits."""

    def gate(self: Any, *args: Any, **kwargs: Any) -> list[Condition]:
        fits, conditions = _now(), claim_gate(self, *args, **kwargs)
        if _early is None and _pace is not None:
            _pace.saw(args[0] if args else kwargs["queue_name"])
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
        fits, on_sqlite = _now(), getattr(_sweep, "on_sqlite", None)
        table = getattr(column, "table", None)
        if fits is None or on_sqlite is None or table is None or "attributes" not in table.c:
            return found
        return sa.and_(found, fits(table, on_sqlite))

    return staticmethod(filter)


def _is_sqlite(system: Any) -> bool:
    return str(system.engine.dialect.name) == "sqlite"
