"""What can go wrong with a run, each with the fix in its message.

`docs/errors.md` says of each when it is raised and what to do. Where an error of DBOS or of Python
used to come out as it was, the class derives from that one too.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from dbos import error as _dbos

from crewai_dbos import _command_lines

__all__ = [
    "AlreadyAnswered",
    "AnswerError",
    "BatchError",
    "BudgetExceeded",
    "ConcurrentRunError",
    "CrewaiDbosError",
    "DeadlinePassedError",
    "DefinitionError",
    "DriftError",
    "EventLoopError",
    "ForkError",
    "InvalidAnswer",
    "JournalCorruptError",
    "LostContextError",
    "MissingDefinitionError",
    "NotAllowed",
    "NotLaunchedError",
    "OutsideRunError",
    "QueueNotFoundError",
    "RecordedError",
    "RecoveryLimitError",
    "RequestExpired",
    "RunAbortedError",
    "RunCancelledError",
    "RunConflictError",
    "RunForkedError",
    "RunNotFoundError",
    "RunStateError",
    "RunStoppedError",
    "SealedError",
    "UnknownRequest",
    "UnstorableInputError",
    "UnstorableValueError",
]


class CrewaiDbosError(Exception):
    """Base of every error this package raises on its own account."""

    def __str__(self) -> str:
        # DBOS's errors put a number before their text.
        return Exception.__str__(self)


# Before there is a run -------------------------------------------------------


class DefinitionError(CrewaiDbosError):
    """A definition is unusable as written: a bad or duplicate name, or bad options."""


class MissingDefinitionError(DefinitionError):
    """The agent, crew, flow or workflow that a run is of is not defined in this process."""


class NotLaunchedError(DefinitionError, _dbos.DBOSException):
    """A run was asked for or about before ``DBOS.launch()``, or waited for over `DBOS.destroy`.

    Of a kickoff only where `refuse_unrecorded` was called.
    """


class QueueNotFoundError(DefinitionError):
    """A run is to be put on a queue that is not registered."""


class EventLoopError(CrewaiDbosError, RuntimeError):
    """A sync method was called inside an event loop, which it would hold up."""


class OutsideRunError(CrewaiDbosError, RuntimeError):
    """What only a durable run has was asked for outside of one."""


class UnstorableInputError(CrewaiDbosError):
    """A run was asked for with something that a fresh process could not rebuild.

    Raised before the run starts, so nothing has been called or stored.
    """


class UnstorableValueError(CrewaiDbosError, TypeError):
    """A value has no JSON form."""


class RunConflictError(CrewaiDbosError):
    """The workflow id is already taken by a run of something else."""


# The end of a run ------------------------------------------------------------


class RunNotFoundError(CrewaiDbosError, _dbos.DBOSNonExistentWorkflowError, LookupError):
    """There is no run with this id in the database.

    Attributes:
        workflow_id: The id.
        ambiguous: Whether it is the beginning of several ids.
    """

    def __init__(self, workflow_id: str, ambiguous: bool = False) -> None:
        super().__init__("target", workflow_id)
        self.workflow_id = workflow_id
        self.ambiguous = ambiguous
        _say(
            self,
            f"Several runs have ids that begin with {workflow_id!r}. Give more letters of it."
            if ambiguous
            else f"There is no run {workflow_id!r} in this database. Look whether the id is the "
            "one it was started with, and the database the one it was started in.",
        )

    def __reduce__(self) -> Any:
        return type(self), (self.workflow_id, self.ambiguous)


class RunCancelledError(CrewaiDbosError, _dbos.DBOSAwaitedWorkflowCancelledError):
    """The run was cancelled, so it has no result.

    Attributes:
        workflow_id: Its id.
        by: Who has cancelled it; None if that was not said.
        reason: Why; None if that was not said.
        fork: The fork that goes on for it, or has its result; None if there is none.
    """

    _why = "was cancelled"
    _then = "."

    def __init__(
        self,
        workflow_id: str,
        by: str | None = None,
        reason: str | None = None,
        fork: str | None = None,
    ) -> None:
        super().__init__(workflow_id)
        self.by = by
        self.reason = reason
        self.fork = fork
        why = self._why + (f" by {by}" if by else "") + (f": {reason}" if reason else "")
        _say(
            self,
            f"Run {workflow_id!r} {why.rstrip('.')}. What it has recorded is kept. To go on from "
            f"there: {_command_lines.resume(workflow_id)}{self._then}"
            if fork is None
            else f"Run {workflow_id!r} {why.rstrip('.')}. The result is that of its fork {fork!r}: "
            f"{_command_lines.show(fork)}",
        )

    def __reduce__(self) -> Any:
        return type(self), (self.workflow_id, self.by, self.reason, self.fork)


class DeadlinePassedError(RunCancelledError):
    """The run was cancelled because its time was up: ``SetWorkflowTimeout``.

    Attributes:
        workflow_id: Its id.
        by: None.
        reason: None.
        fork: As of `RunCancelledError`.
    """

    _why = "was cancelled, as its deadline has passed"
    _then = ", which gives it time again."


class RecoveryLimitError(CrewaiDbosError, _dbos.DBOSAwaitedWorkflowMaxRecoveryAttemptsExceeded):
    """The run was recovered so often that DBOS has given it up.

    Attributes:
        workflow_id: Its id.
    """

    def __init__(self, workflow_id: str) -> None:
        super().__init__(workflow_id)
        _say(
            self,
            f"Run {workflow_id!r} was recovered as often as DBOS does that, and has not ended. "
            f"Find out what ends its process, then {_command_lines.resume(workflow_id)}.",
        )


class RunStateError(CrewaiDbosError):
    """The run can't be cancelled, resumed or moved as it stands: it has ended, or is at work.

    Attributes:
        workflow_id: Its id.
        status: DBOS's status of it.
    """

    def __init__(self, workflow_id: str, status: str, message: str) -> None:
        super().__init__(message)
        self.workflow_id = workflow_id
        self.status = status

    def __reduce__(self) -> Any:
        return type(self), (self.workflow_id, self.status, str(self))


class RunStoppedError(CrewaiDbosError):
    """The run does not fit the code or its record. It is left cancelled, with its journal whole.

    Attributes:
        fork: The fork that goes on for the run, or has its result, as who waits for the run is told
            of it; None if there is none.
    """

    fork: str | None = None


class DriftError(RunStoppedError):
    """On recovery the code asked for other calls than the ones recorded.

    The run is left cancelled with its journal whole. The message ends with the commands: the one
    that goes on with the code of before, and the fork that the code of now can finish.
    """


class JournalCorruptError(RunStoppedError):
    """A recorded entry can't be read. The run is left cancelled; the message says what to do."""


class RunAbortedError(RunStoppedError):
    """The run's code raised what is no `Exception`: `SystemExit`, `CancelledError`, ...

    It would do so again each time that the run is recovered. The run is left cancelled with its
    journal whole; `Control.resume(run_id)` goes on with it.
    """


class BudgetExceeded(RunStoppedError):
    """The run has used what its `Budget` allows. It is left cancelled with its journal whole.

    Once the limit is higher, in the definition or by `Control.raise_budget`,
    `Control.resume(run_id)` goes on from there.

    Attributes:
        limit: The limit that was reached.
        used: What is used: as much, or more by what was being made at that time.
        unit: What both count: ``tokens`` or ``usd``.
        path: The place in the run whose budget it is.
    """

    def __init__(
        self,
        message: str,
        limit: float | None = None,
        used: float | None = None,
        unit: str | None = None,
        path: str | None = None,
    ) -> None:
        super().__init__(message)
        self.limit = limit
        self.used = used
        self.unit = unit
        self.path = path

    @property
    def noted(self) -> dict[str, Any]:
        """What is said of it where the status of the run is looked up."""
        names = ("limit", "used", "unit", "path")
        return {"budget": {name: getattr(self, name) for name in names}}

    def __reduce__(self) -> Any:
        return type(self), (*self.args, self.limit, self.used, self.unit, self.path)


class ForkError(CrewaiDbosError, ValueError):
    """A run can't be forked as asked: no such place in it, or an edit that does not fit."""


class RunForkedError(ForkError, RunStateError):
    """A fork makes what was left of the run, or has made it, so it is not forked or resumed too.

    Attributes:
        workflow_id: The id of the run.
        status: DBOS's status of it.
        forks: The ids of the forks.
    """

    def __init__(
        self, workflow_id: str, status: str, message: str, forks: tuple[str, ...] = ()
    ) -> None:
        super().__init__(workflow_id, status, message)
        self.forks = forks

    def __reduce__(self) -> Any:
        return type(self), (self.workflow_id, self.status, str(self), self.forks)


class SealedError(CrewaiDbosError):
    """What is stored was encrypted with a serializer or a key that this process does not have."""


class LostContextError(CrewaiDbosError):
    """A call that belongs to a run was made on a thread that does not carry the run's context."""


class ConcurrentRunError(CrewaiDbosError):
    """Two calls that the journal can tell apart only by their order were made at the same time."""


class BatchError(CrewaiDbosError):
    """Some items of a batch failed; the others are done.

    Attributes:
        batch_id: The id to call `DBOSCrew.kickoff_for_each` under again, to run only these.
        outputs: By position the output of each item, None of those that failed.
        errors: The error of each item that failed, by position.
    """

    def __init__(self, batch_id: str, outputs: list[Any], errors: dict[int, Exception]) -> None:
        self.batch_id = batch_id
        self.outputs = outputs
        self.errors = errors
        runs = [f"{batch_id}/{position + 1}" for position in errors]
        listed = ", ".join(runs[:10]) + (", ..." if len(runs) > 10 else "")
        first = next(iter(errors.values()))
        super().__init__(
            f"{len(errors)} of {len(outputs)} items of batch {batch_id!r} failed, the runs "
            f"{listed}. The first: {type(first).__name__}: {first}. Call kickoff_for_each with the "
            f"same inputs in `with SetWorkflowID({batch_id!r})` to run only these again."
        )


# Answers of people -------------------------------------------------------------


class AnswerError(CrewaiDbosError):
    """An answer to a request was not taken."""


class UnknownRequest(AnswerError, LookupError):
    """There is no request with this id in the database.

    Attributes:
        request_id: The id.
        ambiguous: Whether it is the beginning of several ids.
    """

    def __init__(self, request_id: str, ambiguous: bool = False) -> None:
        super().__init__(
            f"Several requests have ids that begin with {request_id!r}. Give more letters of it."
            if ambiguous
            else f"There is no request {request_id!r} in this database. Look whether it is the "
            "database that its run is in; requests that are open: crewai-dbos inbox list"
        )
        self.request_id = request_id
        self.ambiguous = ambiguous

    def __reduce__(self) -> Any:
        return type(self), (self.request_id, self.ambiguous)


class AlreadyAnswered(AnswerError):
    """Somebody else has answered the request before. The first answer counts.

    Attributes:
        request_id: Of the request.
        by: Who has answered it.
        at: When, in UTC.
    """

    def __init__(self, request_id: str, by: str | None, at: datetime | None) -> None:
        when = "" if at is None else f" at {at:%Y-%m-%d %H:%M:%S} UTC"
        super().__init__(f"Request {request_id} was answered by {by or 'somebody'}{when}.")
        self.request_id = request_id
        self.by = by
        self.at = at

    def __reduce__(self) -> Any:
        return type(self), (self.request_id, self.by, self.at)


class RequestExpired(RunStoppedError, AnswerError):
    """The deadline of a request has passed, or nothing waits for it any more.

    Whoever answers too late gets it; and a run in which nobody has answered in time, where that is
    to be an error (``on_deadline="fail"``).
    """


class InvalidAnswer(AnswerError, ValueError):
    """The answer does not fit what was asked: another kind, or not of the schema.

    Attributes:
        errors: What of it does not fit the schema: the path of each place, and what is wrong there.
    """

    def __init__(self, message: str, errors: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.errors = tuple(errors)

    def __reduce__(self) -> Any:
        return type(self), (str(self), self.errors)


class NotAllowed(AnswerError):
    """The answer changes what may not be changed."""


class RecordedError(CrewaiDbosError):
    """Stands in for a recorded error whose class can't be rebuilt here.

    Attributes:
        recorded_type: ``module:QualifiedName`` of the class that was raised.
    """

    recorded_type: str = ""


def _say(error: _dbos.DBOSException, message: str) -> None:
    error.message = message
    error.args = (message,)
