"""The threads and the event loop that DBOS runs workflows on."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from crewai_dbos._dbos_seam.instance import is_launched, launched_instance
from crewai_dbos._threads import in_event_loop


def on_workflow_thread() -> bool:
    """Whether this is a thread on which DBOS recovers workflows, and not one they started."""
    executor = launched_instance()._executor
    return in_event_loop() or threading.current_thread() in executor._threads


def are_limited() -> bool:
    """Whether DBOS has only so many threads for workflows, by its config."""
    runtime: dict[str, Any] = dict(launched_instance()._config.get("runtimeConfig") or {})
    return bool(runtime.get("max_executor_threads"))


def on_the_loop_of_dbos() -> bool:
    """Whether this thread runs the event loop that DBOS hands coroutines to.

    A sync call in it that DBOS runs as a coroutine would wait for itself.
    """
    if not in_event_loop():
        return False
    loops = launched_instance()._background_event_loop
    return asyncio.get_running_loop() is loops.target_loop()


def on_the_own_loop_of_dbos() -> bool:
    """Whether this thread runs the loop that DBOS has made, and not one it was launched in."""
    if not is_launched() or not in_event_loop():
        return False
    return asyncio.get_running_loop() is launched_instance()._background_event_loop._loop
