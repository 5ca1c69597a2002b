"""Killing a process exactly where a journal entry is: the fault injector, for the process itself.

Everything is real but the moment: DBOS's own reads and writes are wrapped, so that the process
sends itself SIGKILL right before or after one of them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from dbos._sys_db import SystemDatabase

from crewai_dbos.testing import EffectLog

RESULT = "result"
"""Stands for the row that is not a step: the run's own result."""

_running: ContextVar[str] = ContextVar("running", default="")

watchers: list[Callable[[str, str], None]] = []
"""Called with entry and moment at every moment of every entry, after `install`."""


def install(entry: str = "", moment: str = "") -> None:
    """Die at `moment` of the call recorded as `entry`; without one, only observe.

    ``before`` is when DBOS has been asked for the call's record and found none, ``inside`` when
    the call has reported its effect, ``done`` when its outcome is about to be recorded,
    ``recorded`` when that is committed.

    Effects are reported with the name of the entry whose call is running.
    """
    check, record = SystemDatabase.check_operation_execution, SystemDatabase.record_operation_result
    finish, report = SystemDatabase.update_workflow_outcome, EffectLog.report

    def at(name: str, now: str) -> None:
        for watch in watchers:
            watch(name, now)
        if (name, now) == (entry, moment):
            os.kill(os.getpid(), signal.SIGKILL)

    def checked(self: Any, workflow_id: str, function_id: int, name: str, **options: Any) -> Any:
        found = check(self, workflow_id, function_id, name, **options)
        if found is None:
            at(name, "before")
        _running.set(name)
        return found

    def reported(self: EffectLog, kind: str, /, **fields: Any) -> None:
        report(self, kind, entry=_running.get(), **fields)
        at(_running.get(), "inside")

    def recorded(self: Any, result: Any, **options: Any) -> None:
        at(result["function_name"], "done")
        record(self, result, **options)
        at(result["function_name"], "recorded")

    def finished(self: Any, *args: Any, **options: Any) -> Any:
        at(RESULT, "done")
        updated = finish(self, *args, **options)
        at(RESULT, "recorded")
        return updated

    SystemDatabase.check_operation_execution = checked  # type: ignore[method-assign]
    SystemDatabase.record_operation_result = recorded  # type: ignore[method-assign]
    SystemDatabase.update_workflow_outcome = finished  # type: ignore[method-assign]
    EffectLog.report = reported  # type: ignore[method-assign]
