"""What travels past every ``except Exception`` of crewAI. A caller never gets one."""

from __future__ import annotations


class ControlSignal(BaseException):
    """Carries `error` past every ``except Exception`` of crewAI to the end of the run."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class RunSuspended(BaseException):
    """Leaves a run PENDING: it is not over, and goes on later, or in another process.

    Its code is not loaded, DBOS is shut down, or this process ends.
    """


class RunLeft(RunSuspended):
    """Leaves a run to its row, which says what became of it: it was cancelled, or is another's now.

    Attributes:
        run_id: Its workflow id.
    """

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id} is left to its row")
        self.run_id = run_id


class RunCancelled(RunLeft):
    """The same: it was cancelled, or its time was up."""


class RunParked(RunLeft):
    """The same: nothing but answers of people can take it further."""
