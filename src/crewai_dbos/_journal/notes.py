"""What is said of a run where its status is looked up: the attributes of its workflow."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from dbos import DBOS, WorkflowStatus

from crewai_dbos import _command_lines
from crewai_dbos._dbos_seam import attributes, stopping
from crewai_dbos._dbos_seam.context import detached
from crewai_dbos._dbos_seam.database import CANCELLED, INTERNAL_QUEUE, launched_database
from crewai_dbos._journal.drift import onward_of
from crewai_dbos._secrets import known
from crewai_dbos._stored import names, redaction, sealing, work_order
from crewai_dbos._stored.cancelled import Cancelled, cancelled_in, said_in
from crewai_dbos._stored.moved import way_back
from crewai_dbos.errors import BudgetExceeded, DriftError, SealedError

logger = logging.getLogger("crewai_dbos")

_STOPPED = "__crewai_dbos_stopped__"
_WAYS = "__crewai_dbos_ways__"
_ADDING = threading.Lock()


def stop(
    run_id: str,
    owner_xid: str | None,
    error: Exception,
    redact: Iterable[redaction.Redact] = (),
) -> None:
    """Cancel a run that does not fit the code, and say why where its status is looked up.

    Nothing is done to one that another execution has by now.

    Args:
        run_id: The run's workflow id.
        owner_xid: By what DBOS knows this execution.
        error: Why it stops.
        redact: What the reason is put through.
    """
    status = detached(DBOS.get_workflow_status, run_id)
    ways = _added_ways(run_id, error, status)
    told = str(error)
    why = redaction.shown(known.hide(told.removesuffix(ways)), redact) + ways
    more = error.noted if isinstance(error, BudgetExceeded) else {}
    if (queue := _queue_of(status)) is not None:
        more = {**more, names.QUEUE: queue}  # which DBOS forgets when it cancels
    said = {"stopped": sealing.seal(why), "error": type(error).__name__, **more}
    is_ours = stopping.stop(launched_database(), run_id, owner_xid, lambda old: _with(old, said))
    if is_ours or _is_so_stopped(run_id, said):
        logger.error("Stopped: %s", told if told.startswith("Run ") else f"Run {run_id}: {told}")
    else:
        logger.info("Run %s was cancelled, or is carried out by another execution now.", run_id)
    vars(error)[_STOPPED] = run_id


def _is_so_stopped(run_id: str, said: Mapping[str, Any]) -> bool:
    """Whether another thread has stopped it so, or this one, which the database did not answer."""
    status = detached(DBOS.get_workflow_status, run_id)
    found = None if status is None else said_in(status.attributes)
    written = said_in(_with({}, said))["stopped"]
    return found is not None and found.get("stopped") == written


def _added_ways(run_id: str, error: Exception, status: WorkflowStatus | None) -> str:
    """What `error` says at its end to do about the run; added now unless it was."""
    with _ADDING:  # threads of a run stop because of the same error
        ways: str | None = vars(error).get(_WAYS)
        if ways is None:
            ways = _ways(run_id, error, status) if isinstance(error, DriftError) else ""
            if ways:
                error.args = (f"{error}{ways}",)
            vars(error)[_WAYS] = ways
    return ways


def _ways(run_id: str, error: DriftError, status: WorkflowStatus | None) -> str:
    """What to do about a run that does not fit the code, as sentences to add; the fork comes last.

    Its error may say already what is to be put right, and that it is resumed then.
    """
    onward = onward_of(error)
    version = None if status is None else status.app_version
    back = way_back(run_id, None if status is None else status.attributes, version)
    told = ""
    if back is not None:
        told = (
            f" It was moved to this application version. Under the one before it goes on ({back})."
        )
    elif onward is not None:
        told = f" Put the code back and resume it ({_command_lines.resume(run_id)})."
        if _has_waited(status):
            told += (
                " As it has waited for a person, the newest version took it: if another one has "
                f"that code, move it there ({_command_lines.move(run_id, 'VERSION')})."
            )
    if onward is None:
        return told
    newest = None
    with suppress(Exception):  # the run stops all the same, and its fork names its own version
        newest = detached(DBOS.get_latest_application_version)["version_name"]
    here = None if version == newest else version
    return f"{told} Or let this code finish it, in {onward.told(run_id, here)}"


def _has_waited(status: WorkflowStatus | None) -> bool:
    """Whether a run was of no version for a while, so that nobody knows which one began it."""
    queue = None if status is None else status.queue_name
    return (queue or "").startswith(names.resume_queue(None))


def _queue_of(status: WorkflowStatus | None) -> str | None:
    """The queue of the user's, or of ours, that a run was taken from."""
    queue = None if status is None else status.queue_name
    return None if queue is None or queue == INTERNAL_QUEUE else queue


def has_stopped(run_id: str, error: BaseException) -> bool:
    """Whether `stop` has been called for the run because of this very `error`."""
    return bool(vars(error).get(_STOPPED) == run_id)


def clear(run_id: str, order: Mapping[str, Any]) -> None:
    """Take back what was said of a run that goes on, and say what it is a run of.

    It is not said yet where an earlier release or another program has begun the run.

    Args:
        run_id: The run's workflow id.
        order: Its order, as it is stored.
    """
    status = detached(DBOS.get_workflow_status, run_id)
    label = work_order.label(order)

    def cleared(before: Mapping[str, Any], now: str) -> dict[str, Any] | None:
        if now == CANCELLED:
            return None  # since it was begun here: it does not go on
        told = {} if label is None else {names.RUN_ATTRIBUTE: label}
        kept = {name: value for name, value in before.items() if name != names.ATTRIBUTE}
        wanted = {**told, **kept}
        return None if wanted == before else wanted

    # Most runs need no change, so no transaction that others wait for.
    if status is not None and cleared(status.attributes or {}, status.status) is not None:
        attributes.change(launched_database(), run_id, cleared)


def of(status: WorkflowStatus) -> dict[str, Any]:
    """What `add` has put into the attributes of a run.

    Raises:
        SealedError: It is encrypted, and this process can't read it.
    """
    return {name: sealing.opened(item) for name, item in said_in(status.attributes).items()}


def is_stopped(status: WorkflowStatus) -> bool:
    """Whether `stop` has been called for the run."""
    return "stopped" in said_in(status.attributes)


def cancelled(found: Mapping[str, Any] | None) -> Cancelled | None:
    """Who has cancelled a run, and why, as its attributes say; None if they do not.

    Nothing but that it was if this process can't read it.
    """
    try:
        return cancelled_in(found, sealing.opened)
    except SealedError:
        return Cancelled(0)


def add(run_id: str, what: Mapping[str, Any]) -> None:
    """Put `what`, less the secrets in it, into the attributes of a run: its status has them.

    What is said there of a cancel stays: somebody may have cancelled the run meanwhile.
    """
    try:
        attributes.change(launched_database(), run_id, lambda before, _: _with(before, what))
    except Exception as error:
        # The run goes its way without it.
        logger.warning("Run %s: its attributes could not be written: %s", run_id, error)


def _with(before: Mapping[str, Any], what: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes in which `what`, less its secrets, is said of the run too."""
    shown = {
        name: known.hide(value) if isinstance(value, str) else value for name, value in what.items()
    }
    return {**before, names.ATTRIBUTE: {**said_in(before), **shown}}
