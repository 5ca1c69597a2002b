"""Workflows that do nothing that is not in their record: DBOS runs no step of theirs anew."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from crewai_dbos import _patches
from crewai_dbos._dbos_seam.errors import DBOSWorkflowCancelledError
from crewai_dbos._dbos_seam.instance import system_database

_missing: dict[str, list[str]] = {}


def replay_only(run_id: str) -> list[str]:
    """From now on the workflow `run_id` is cancelled at the first step that is not recorded.

    Returns:
        The names of the steps that it asks for and that are not recorded.
    """
    _patches.apply(_patches.REPLAY)
    return _missing.setdefault(run_id, [])


def refusing(check: Callable[..., Any]) -> Callable[..., Any]:
    """What DBOS is asked before a step is run, the user's or ours: it refuses one that is new."""
    database = system_database()

    def checked(workflow_id: str, function_id: int, function_name: str, conn: Any) -> Any:
        recorded = check(workflow_id, function_id, function_name, conn=conn)
        missing = _missing.get(workflow_id)
        if recorded is None and missing is not None:
            missing.append(function_name)
            if len(missing) == 1:
                # On another thread: the transaction that asks is open on this one.
                cancel = threading.Thread(target=database.cancel_workflows, args=([workflow_id],))
                cancel.start()
            raise DBOSWorkflowCancelledError(f"{function_name} is not recorded")
        return recorded

    return checked
