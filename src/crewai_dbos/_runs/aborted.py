"""Runs that end with something that is no `Exception`: ``exit()``, Ctrl-C, a cancelled task.

The code of a run may raise it, and would do so after each launch: such a run is stopped until
somebody resumes it. Or it comes from outside, as the process is being ended: then the run is kept
PENDING, and goes on at the next launch.
"""

from __future__ import annotations

import itertools
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dbos import DBOS

from crewai_dbos import _command_lines, _tracebacks
from crewai_dbos._dbos_seam.context import DBOSContext, detached
from crewai_dbos._dbos_seam.errors import (
    DBOSBaseException,
    DBOSWorkflowCancelledError,
    DBOSWorkflowConflictIDError,
)
from crewai_dbos._dbos_seam.instance import is_shut_down
from crewai_dbos._fleet import membership
from crewai_dbos._journal import executions, notes
from crewai_dbos._runs import cut_short, unfinished
from crewai_dbos._secrets.cutting import cutter
from crewai_dbos._signals import ControlSignal, RunCancelled, RunLeft, RunSuspended
from crewai_dbos._threads import in_main_thread
from crewai_dbos.errors import RunAbortedError

_LOST = (DBOSWorkflowCancelledError, DBOSWorkflowConflictIDError)

logger = logging.getLogger("crewai_dbos")


def ended_by(error: BaseException, context: DBOSContext, *, outside: bool = False) -> BaseException:
    """What the body of a run raises in place of `error`, which is no `Exception`.

    Args:
        error: What its work has ended with.
        context: The workflow that was opened for it.
        outside: Whether the work was cancelled by whoever waits for it.

    Returns:
        `error`; or, if the run is stopped for it, a signal that carries it to the caller; or, if
        its row is another's now, a signal that leaves it to that.
    """
    if isinstance(error, ControlSignal):
        if notes.has_stopped(context.workflow_id, error.error):
            return error
        error = error.error
    if type(error) is RunLeft or isinstance(error, _LOST):
        return left_to_its_row(context.workflow_id)
    if isinstance(error, (RunSuspended, DBOSBaseException)) or is_shut_down():
        return error
    run_id = context.workflow_id
    if outside or _ends_the_process(error):
        cut_short.leave(run_id, str(context.owner_xid))
        if outside and membership.member() is not None:
            _goes_on_here(run_id)
        else:
            say_that_it_is_kept(run_id, ", or when it is asked for again under its id")
        return error
    told = cutter(executions.secrets_of(context))(_told(run_id, error))
    stopped = RunAbortedError(executions.redacted(told, context))
    notes.stop(run_id, context.owner_xid, stopped)
    return ControlSignal(error)


def _goes_on_here(run_id: str) -> None:
    """Have a run go on that nobody waits for any more: nobody takes those of a worker that lives.

    Another process may be about to end, and would take it up again only to be killed in the middle.
    """
    cut_short.take_up_soon(run_id)
    logger.warning(
        "Run %s: whoever waited for it does not any more. It goes on at a worker, and what is "
        "recorded is not done again. To give it up: DBOS.cancel_workflow(%r)",
        run_id,
        run_id,
    )


def left_to_its_row(run_id: str) -> RunLeft:
    """The end of an execution of a run that was cancelled, or that another execution has now.

    Raised to DBOS, which logs a traceback of each `Exception`.
    """
    if is_shut_down():
        return RunLeft(run_id)
    try:
        status = detached(DBOS.get_workflow_status, run_id)
        if status is not None and status.status == "CANCELLED":
            if not notes.is_stopped(status):
                logger.warning("%s", unfinished.cancelled(status))
            return RunCancelled(run_id)
        logger.info("Run %s is carried out by another execution now.", run_id)
    except Exception as error:
        logger.warning("Run %s has ended here (%s)", run_id, type(error).__name__)
    return RunLeft(run_id)


@contextmanager
def saying_that_it_is_kept(run_id: str) -> Iterator[None]:
    """The block works for a workflow of the user's, which DBOS leaves PENDING if it ends so."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, RunSuspended):
        say_that_it_is_kept(run_id)
        raise


def say_that_it_is_kept(run_id: str, or_when: str = "") -> None:
    """Say how a run goes on that was cut short.

    Args:
        run_id: Its workflow id.
        or_when: When else, as the rest of a sentence.
    """
    logger.warning(
        "Run %s was cut short, and is kept: what is recorded is not done again. It goes on at the "
        "next DBOS.launch() of this program%s. To give it up: DBOS.cancel_workflow(%r)",
        run_id,
        or_when,
        run_id,
    )


def _told(run_id: str, error: BaseException) -> str:
    what = type(error).__name__ + (f" ({error})" if str(error) else "")
    at = [f" at {file}:{line} in {name}" for file, line, name in _tracebacks.places(error)[-1:]]
    return (
        f"Run {run_id!r} was ended by its own code, which raised {what}{''.join(at)}. It is left "
        "cancelled with its journal whole, and does not begin again by itself: "
        f"{_command_lines.resume(run_id)} goes on, and makes the call again that was cut short."
    )


def _ends_the_process(error: BaseException) -> bool:
    """Whether `error` is raised as this process is being ended, by a signal or a broken pipe."""
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
        return True  # by the console that crewAI prints to
    if not in_main_thread():
        return False
    if isinstance(error, KeyboardInterrupt):
        return True
    return isinstance(error, SystemExit) and _was_raised_by_a_handler(error)


def _was_raised_by_a_handler(error: BaseException) -> bool:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(_was_given(frame, before) for before, frame in itertools.pairwise(frames))


def _was_given(frame: FrameType, interrupted: FrameType) -> bool:
    """Whether `frame` was called with the frame before it, as Python calls handlers of signals."""
    given = [*frame.f_locals.values()]
    given += [each for item in given if type(item) is tuple for each in item]
    return any(each is interrupted for each in given)
