"""Workflows that do nothing that is not in their record: no step of theirs is run anew."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from crewai_dbos import _patches
from crewai_dbos._dbos_seam import steps
from crewai_dbos._dbos_seam.errors import DBOSWorkflowCancelledError
from crewai_dbos._dbos_seam.instance import system_database

_missing: dict[str, list[str]] = {}


def replay_only(run_id: str) -> list[str]:
    """From now on the workflow `run_id` is cancelled at the first step that is not recorded.

    Returns:
        The names of the steps that it asks for and that are not recorded.
    """
    _patches.apply(_patches.REPLAY)
    if refuse_new not in steps.watchers:
        steps.watchers.append(refuse_new)
    return _missing.setdefault(run_id, [])


def refusing(check: Callable[..., Any]) -> Callable[..., Any]:
    """What DBOS is asked before a step of the user's is run: it refuses one that is new."""

    def checked(workflow_id: str, function_id: int, function_name: str, conn: Any) -> Any:
        recorded = check(workflow_id, function_id, function_name, conn=conn)
        if recorded is None:
            _refuse(workflow_id, function_name)
        return recorded

    return checked


def refuse_new(moment: str, run_id: str, step_id: int, name: str) -> None:
    """A step of ours, which is known not to be recorded."""
    if moment == steps.BEGINS:
        _refuse(run_id, name)


def _refuse(run_id: str, name: str) -> None:
    missing = _missing.get(run_id)
    if missing is None:
        return
    missing.append(name)
    if len(missing) == 1:
        # On another thread: a transaction may be open on this one.
        cancel = system_database().cancel_workflows
        threading.Thread(target=cancel, args=([run_id],)).start()
    raise DBOSWorkflowCancelledError(f"{name} is not recorded")
