"""A DBOS workflow that follows a plan, for tests of the journal without crewAI."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from dbos import DBOS, SetWorkflowID, WorkflowHandle

from crewai_dbos._errors import ControlSignal

PLANS: dict[str, Callable[[], Any]] = {}
"""What a run does, by the name that its workflow is given. The workflow's source stays as it is."""

_numbers = itertools.count(1)


@DBOS.workflow(name="follow")
def follow(plan: str) -> Any:
    try:
        return PLANS[plan]()
    except ControlSignal as signal:
        raise signal.error from None


@DBOS.workflow(name="afollow")
async def afollow(plan: str) -> Any:
    try:
        return await PLANS[plan]()
    except ControlSignal as signal:
        raise signal.error from None


@contextlib.contextmanager
def launched(database_url: str, **config: Any) -> Iterator[None]:
    """DBOS on this database, as quick to notice work as it can be."""
    options = {"name": "journal", "system_database_url": database_url, "log_level": "ERROR"}
    options["notification_listener_polling_interval_sec"] = 0.02
    dbos = DBOS(config={**options, **config})
    # Forked, resumed and recovered workflows wait in this queue.
    dbos._registry.get_internal_queue()._polling_interval_sec = 0.02
    DBOS.launch()
    try:
        yield
    finally:
        DBOS.destroy()
        PLANS.clear()


def start(plan: Callable[[], Any], *, run_id: str | None = None, background: bool = False) -> Any:
    """Run `plan` in a workflow of its own: its handle if in the background, else its result."""
    name = run_id or f"run-{next(_numbers)}"
    PLANS[name] = plan
    with SetWorkflowID(name):
        handle: WorkflowHandle[Any] = DBOS.start_workflow(follow, name)
    return handle if background else result(handle)


def result(handle: WorkflowHandle[Any]) -> Any:
    return handle.get_result(polling_interval_sec=0.01)
