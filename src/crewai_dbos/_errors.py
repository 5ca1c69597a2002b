"""What can go wrong with a run, each with the fix in its message."""

from __future__ import annotations

from typing import Any


class CrewaiDbosError(Exception):
    """Base of every error this package raises on its own account."""


class DefinitionError(CrewaiDbosError):
    """A definition is unusable as written: a bad or duplicate name, or bad options."""


class UnstorableInputError(CrewaiDbosError):
    """A run was asked for with something that a fresh process could not rebuild.

    Raised before the run starts, so nothing has been called or stored.
    """


class UnstorableValueError(CrewaiDbosError, TypeError):
    """A value has no JSON form."""


class DriftError(CrewaiDbosError):
    """On recovery the code asked for other calls than the ones recorded.

    The run is left cancelled with its journal whole: put the code right and
    `DBOS.resume_workflow(run_id)`, or fork it.
    """


class JournalCorruptError(CrewaiDbosError):
    """A recorded entry can't be read. The run is left cancelled; fork it from before that entry."""


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
        position, first = next(iter(errors.items()))
        listed = ", ".join(map(str, list(errors)[:10])) + (", ..." if len(errors) > 10 else "")
        super().__init__(
            f"{len(errors)} of {len(outputs)} items of batch {batch_id!r} failed, at positions "
            f"{listed}. At {position}: {type(first).__name__}: {first}. Call kickoff_for_each with "
            f"the same inputs in `with SetWorkflowID({batch_id!r})` to run only these again."
        )


class RunConflictError(CrewaiDbosError):
    """The workflow id is already taken by a run of something else."""


class RecordedError(CrewaiDbosError):
    """Stands in for a recorded error whose class can't be rebuilt here.

    Attributes:
        recorded_type: ``module:QualifiedName`` of the class that was raised.
    """

    recorded_type: str = ""


class ControlSignal(BaseException):
    """Carries `error` past every ``except Exception`` of crewAI to the end of the run."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class RunSuspended(BaseException):
    """Leaves a run PENDING: it is not over, it is waiting for code that is not loaded."""
