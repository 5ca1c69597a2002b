"""What is said of a run where its status is looked up: the attributes of its workflow."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from dbos import DBOS, WorkflowStatus

from crewai_dbos._dbos_seam.context import detached
from crewai_dbos._secrets import known
from crewai_dbos._stored import names, redaction, sealing
from crewai_dbos._stored.cancelled import Cancelled, cancelled_in, said_in
from crewai_dbos.errors import BudgetExceeded, SealedError

logger = logging.getLogger("crewai_dbos")

_STOPPED = "__crewai_dbos_stopped__"


def stop(run_id: str, error: Exception, redact: Iterable[redaction.Redact] = ()) -> None:
    """Cancel a run that does not fit the code, and say why where its status is looked up."""
    why = known.hide(str(error))
    for function in redact:
        why = function(why)
    logger.error("Run %s stopped: %s", run_id, error)
    more = error.noted if isinstance(error, BudgetExceeded) else {}
    add(run_id, {"stopped": sealing.seal(why), "error": type(error).__name__, **more})
    detached(DBOS.cancel_workflow, run_id)
    vars(error)[_STOPPED] = run_id


def has_stopped(run_id: str, error: BaseException) -> bool:
    """Whether `stop` has been called for the run because of this very `error`."""
    return bool(vars(error).get(_STOPPED) == run_id)


def clear(run_id: str) -> None:
    """Take back what was said of a run that goes on."""
    status = detached(DBOS.get_workflow_status, run_id)
    attributes = dict((status.attributes if status else None) or {})
    if attributes.pop(names.ATTRIBUTE, None) is not None:
        detached(DBOS.update_workflow_attributes, run_id, attributes)


def of(status: WorkflowStatus) -> dict[str, Any]:
    """What `add` has put into the attributes of a run.

    Raises:
        SealedError: It is encrypted, and this process can't read it.
    """
    return {name: sealing.opened(item) for name, item in said_in(status.attributes).items()}


def is_stopped(status: WorkflowStatus) -> bool:
    """Whether `stop` has been called for the run."""
    return "stopped" in said_in(status.attributes)


def cancelled(attributes: Mapping[str, Any] | None) -> Cancelled | None:
    """Who has cancelled a run, and why, as its attributes say; None if they do not.

    Nothing but that it was if this process can't read it.
    """
    try:
        return cancelled_in(attributes, sealing.opened)
    except SealedError:
        return Cancelled(0)


def add(run_id: str, what: Mapping[str, Any]) -> None:
    """Put `what`, less the secrets in it, into the attributes of a run: its status has them."""
    try:
        shown = {
            name: known.hide(value) if isinstance(value, str) else value
            for name, value in what.items()
        }
        attributes = {names.ATTRIBUTE: shown}
        detached(DBOS.update_workflow_attributes, run_id, attributes, merge=True)
    except Exception as error:
        # The run goes its way without it.
        logger.warning("Run %s: its attributes could not be written: %s", run_id, error)
