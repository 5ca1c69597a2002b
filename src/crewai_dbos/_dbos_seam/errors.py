"""The errors that DBOS raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dbos._error import (
    DBOSBaseException,
    DBOSStepTimeoutError,
    DBOSUnexpectedStepError,
    DBOSWorkflowCancelledError,
    DBOSWorkflowConflictIDError,
)

from crewai_dbos._signals import ControlSignal
from crewai_dbos.errors import CrewaiDbosError

__all__ = [
    "DBOSBaseException",
    "DBOSStepTimeoutError",
    "DBOSUnexpectedStepError",
    "DBOSWorkflowCancelledError",
    "DBOSWorkflowConflictIDError",
    "surviving",
]


@contextmanager
def surviving() -> Iterator[None]:
    """The block runs on a thread that is not the run's alone: what ends the run must not end that.

    Raises:
        Exception: What the run is ended with, if that is an exception as others are.
    """
    try:
        yield
    except ControlSignal as signal:
        error = signal.error
        raise error if isinstance(error, Exception) else CrewaiDbosError(str(error)) from None
    except DBOSBaseException as error:
        raise CrewaiDbosError(str(error)) from error
