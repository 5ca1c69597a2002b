"""Waits for the end of a workflow, which end with the DBOS instance that they began with.

DBOS goes on to look into the database that it has been told to leave, for ever if nobody launches
it again.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Callable
from typing import Any

from dbos._outcome import NoResult
from dbos._sys_db import SystemDatabase

from crewai_dbos._dbos_seam.context import current_context
from crewai_dbos._dbos_seam.instance import constructed_instance, is_shut_down
from crewai_dbos._signals import RunSuspended
from crewai_dbos._threads import on_a_thread
from crewai_dbos.errors import NotLaunchedError


def ending_with_dbos(wait: Callable[..., Any]) -> Callable[..., Any]:
    """`SystemDatabase.await_workflow_result` or its async form, which raises after a destroy."""
    if inspect.iscoroutinefunction(wait):

        @functools.wraps(wait)
        async def await_async(
            self: SystemDatabase, workflow_id: str, polling_interval: float, **options: Any
        ) -> Any:
            while True:
                found = await on_a_thread(functools.partial(_found, self, workflow_id, options))
                if not isinstance(found, NoResult):
                    return found
                await asyncio.sleep(_pause(self, polling_interval))

        return await_async

    @functools.wraps(wait)
    def await_result(
        self: SystemDatabase, workflow_id: str, polling_interval: float, **options: Any
    ) -> Any:
        while True:
            found = _found(self, workflow_id, options)
            if not isinstance(found, NoResult):
                return found
            time.sleep(_pause(self, polling_interval))

    return await_result


def _pause(system: SystemDatabase, polling_interval: float) -> float:
    """Seconds until the next look: few while DBOS gives runs time to end.

    It looks itself each second whether they have, and then leaves the database.
    """
    instance = constructed_instance()
    is_ours = instance is not None and instance._sys_db_field is system
    return min(polling_interval, _SOON) if is_ours and is_shut_down() else polling_interval


_SOON = 0.2


def _found(system: SystemDatabase, workflow_id: str, options: dict[str, Any]) -> Any:
    """What the workflow has returned, or `NoResult`; it raises what the workflow has raised."""
    if not system._run_background_processes:
        raise destroyed(workflow_id)
    try:
        return system.check_workflow_result(workflow_id, **options)
    except Exception:
        if not system._run_background_processes:
            raise destroyed(workflow_id) from None
        raise


def destroyed(workflow_id: str) -> BaseException:
    """What ends a wait that DBOS was destroyed in: an error, or in a workflow its suspension.

    DBOS records an error that a wait ends with in the workflow that waits, which it then ends.
    """
    context = current_context()
    if context is not None and context.is_within_workflow():
        return RunSuspended(f"DBOS was destroyed while it waited for run {workflow_id}")
    return NotLaunchedError(
        f"DBOS was destroyed while run {workflow_id!r} was waited for. The run is kept: it goes on "
        "at the next DBOS.launch(), or in another process. Ask for its result again then."
    )
