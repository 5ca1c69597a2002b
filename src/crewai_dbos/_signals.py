"""What travels past every ``except Exception`` of crewAI. A caller never gets one."""

from __future__ import annotations


class ControlSignal(BaseException):
    """Carries `error` past every ``except Exception`` of crewAI to the end of the run."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class RunSuspended(BaseException):
    """Leaves a run PENDING: it is not over, it is waiting for code that is not loaded."""
