"""The error that a run ends with, as DBOS stores it.

DBOS keeps the class name and the text of an error and the first it finds of ``data``, ``details``,
``payload`` and the like: attributes that often hold what a remote server has said. So what a run
raises to DBOS is an error of ours, which carries the one of the user. Its ``data`` is
``{"crewai_dbos": 2, "error": ...}``, and nothing else is ever rebuilt into an exception.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from dbos import PortableWorkflowError

from crewai_dbos import _tracebacks
from crewai_dbos._stored import sealing
from crewai_dbos._stored.errors import decode_error, encode_error, is_error
from crewai_dbos._stored.forms import Json
from crewai_dbos.errors import RecordedError

_TAG = "crewai_dbos"
_VERSION = 2
_CODES = ("code", "error_code", "errno", "status", "status_code")
"""Where DBOS looks for the number of an error."""


class FailedRun(Exception):
    """Carries `original` to the call that waits for the run, past DBOS.

    Attributes:
        original: The error that the run ended with.
        data: What DBOS stores of it.
    """

    def __init__(self, original: Exception, message: str, data: Json) -> None:
        super().__init__(message)
        self.original = original
        self.data = data
        codes = (_number(original, name) for name in _CODES)
        code = next((code for code in codes if code is not None), None)
        if code is not None:
            self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordedError, self.args


def carrying(
    error: Exception, secrets: Iterable[str], redacted: Callable[[Json], Json]
) -> FailedRun:
    """An error for DBOS to store, called as `error` is.

    Args:
        error: What a run has ended with. If its text is not what may be stored, a copy is what the
            caller gets.
        secrets: Texts that must not be stored.
        redacted: What else is made of the recorded error.
    """
    recorded = redacted(encode_error(error, secrets))
    if recorded["message"] != _text(error):
        error = _tracebacks.carried(decode_error(recorded), error)
    data = {_TAG: _VERSION, "error": sealing.seal(recorded)}
    message = "The error is encrypted." if sealing.is_wanted() else recorded["message"]
    logging.getLogger("dbos").addFilter(_as_raised)
    cls = type(recorded["type"].rpartition(":")[2].rpartition(".")[2], (FailedRun,), {})
    made: FailedRun = cls(error, message, data)
    return made.with_traceback(error.__traceback__)


class _AsRaised(logging.Filter):
    """DBOS logs such an error: as it was raised, and without what it has come through since."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, FailedRun) and not logging.getLogger("dbos").isEnabledFor(
            logging.DEBUG
        ):
            record.exc_text = _tracebacks.told(error.original)
        return True


_as_raised = _AsRaised()


def recorded_in(error: BaseException) -> Json | None:
    """What `encode_error` has made of the error of one of our runs, as DBOS has read it again.

    Raises:
        SealedError: It is encrypted, and this process can't read it.
    """
    data: Json = error.data if isinstance(error, PortableWorkflowError) else None
    if not isinstance(error, PortableWorkflowError) or not isinstance(data, dict):
        return None
    if set(data) == {_TAG, "error"} and data[_TAG] == _VERSION:
        data = sealing.opened(data["error"])
        return data if is_error(data) else None
    # Version 1 stored it as it is, and an error's own data in its place.
    named = is_error(data) and data["type"].rpartition(":")[2].rpartition(".")[2]
    same = named == error.name and data["message"] == error.message
    return data if same else None


def as_raised(error: Exception) -> Exception:
    """The user's error that a run of ours ended with, from what DBOS raises."""
    if isinstance(error, FailedRun):
        return error.original
    recorded = recorded_in(error)
    return error if recorded is None else _tracebacks.tell(decode_error(recorded))


def _number(error: Exception, name: str) -> int | None:
    found = error.errno if name == "errno" and isinstance(error, OSError) else None
    found = vars(error).get(name, found)  # not by getattr: a property may do anything
    return found if type(found) is int else None


def _text(error: Exception) -> str:
    try:
        return str(error)
    except Exception:
        return type(error).__name__
