"""Errors of runs that do not fit the code, and what to do about such a run."""

from __future__ import annotations

from dataclasses import dataclass

from crewai_dbos import _command_lines
from crewai_dbos._command_lines import END
from crewai_dbos.errors import DriftError

_ONWARD = "__crewai_dbos_onward__"


@dataclass(frozen=True)
class Onward:
    """The fork of a run that the code of now can finish.

    Attributes:
        places: What it makes again, with what depends on it; `END` is nothing.
        step: The step of DBOS that it goes back to, where places can't tell steps of the user's
            workflow apart.
    """

    places: tuple[str, ...] = (END,)
    step: int | None = None

    def told(self, run_id: str, version: str | None) -> str:
        """What it is, and at the end the command that makes it.

        Args:
            run_id: The run.
            version: The application version whose processes are to take it; None for the newest.
        """
        if self.step is not None:
            more = "" if version is None else f", application_version={version!r}"
            command = f"DBOS.fork_workflow({run_id!r}, {self.step}{more})"
            return f"a fork that makes that again, with all that came after it: {command}"
        kept = "keeps all that is recorded" if self.places == (END,) else "makes that part again"
        return f"a fork that {kept}: {_command_lines.fork(run_id, *self.places, version=version)}"


def drift(told: str, onward: Onward) -> DriftError:
    """The error of a run that does not fit the code.

    What to do is added when the run is stopped: it depends on how the run stands.

    Args:
        told: What does not fit, in whole sentences.
        onward: The fork that the code of now can finish.
    """
    error = DriftError(told)
    vars(error)[_ONWARD] = onward
    return error


def onward_of(error: Exception) -> Onward | None:
    """What `drift` was told, once; None of any other error."""
    found: Onward | None = vars(error).pop(_ONWARD, None)
    return found
