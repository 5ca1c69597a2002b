"""What a worker's log says of errors: once that the database is away, and tracebacks in short.

Its own threads, and those of DBOS, try again for as long as the database is away, and each of them
says so each time. What is left out here is told from the level debug on.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable

import dbos

from crewai_dbos import _tracebacks
from crewai_dbos._dbos_seam import unreachable
from crewai_dbos._fleet.bounded import NoAnswer
from crewai_dbos._health.outage import Outage, Told
from crewai_dbos._runs import failure

logger = logging.getLogger("crewai_dbos")

_LOGGERS = ("crewai_dbos", "dbos")

_FOLDERS = tuple(
    os.path.join(os.path.dirname(str(each.__file__)), "") for each in (dbos, _tracebacks)
)
"""Where the code of DBOS and of this package is. A user's step may log by `DBOS.logger`, too."""

_DRIVERS = ("sqlalchemy", "psycopg", "psycopg_binary", "psycopg_c")

_SAID = {
    Told.ALL: (
        logging.ERROR,
        "The database does not answer ({}). Runs wait for it, and nothing is lost.",
    ),
    Told.SOME: (
        logging.WARNING,
        "Some calls of the database fail ({}), and others are answered. What called it tries "
        "again, and nothing is lost.",
    ),
}
_ONCE = "This is said once; what tries again says so at level debug."
_OVER = {
    Told.ALL: "The database answers again, after",
    Told.SOME: "The database answers all calls again; some have failed for",
}

_FROM_HERE = "crewai_dbos_told"
"""An attribute of the records that are made here."""


class WorkerLog:
    """The log of this process, as long as it is a worker's.

    Args:
        failed: Is called when a call of the database has failed. A beat then, whether it is taken
            or not, says whether that is all that fails.
    """

    def __init__(self, failed: Callable[[], None]) -> None:
        self._outage = Outage()
        self._filter = _Filter(self._outage, failed)

    def begin(self) -> None:
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(self._filter)

    def end(self) -> None:
        for name in _LOGGERS:
            logging.getLogger(name).removeFilter(self._filter)

    def beaten(self, since: float) -> None:
        """The database has taken a beat that was begun then, by `_clock`."""
        if (over := self._outage.answered(since)) is not None:
            told, seconds = over
            _say(logging.WARNING, f"{_OVER[told]} {seconds:.0f} s.")


class _Filter(logging.Filter):
    def __init__(self, outage: Outage, failed: Callable[[], None]) -> None:
        super().__init__()
        self._outage = outage
        self._failed = failed

    def filter(self, record: logging.LogRecord) -> bool:
        if hasattr(record, _FROM_HERE) or record.levelno < logging.WARNING:
            return True
        if record.levelno == logging.WARNING and (error := _of_the_database(record)):
            waited = error.seconds if isinstance(error, NoAnswer) else 0.0
            if (found := self._outage.failed(waited)) is not None:
                level, said = _SAID[found]
                _say(level, f"{said.format(unreachable.told(error))} {_ONCE}")
            self._failed()
            record.levelno, record.levelname = logging.DEBUG, "DEBUG"
            return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
        self._shorten(record)
        return True

    def _shorten(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
            return
        if isinstance(error, failure.FailedRun):
            error = error.original
        record.exc_text = _tracebacks.told(error)


def _of_the_database(record: logging.LogRecord) -> BaseException | None:
    """An error that says that DBOS's database is away, if this is a line of who has caught it.

    What callers of it have caught, or a step of the user's has ended with, may be of another one.
    """
    if not record.pathname.startswith(_FOLDERS):
        return None
    error = record.exc_info[1] if record.exc_info else _caught_in(record)
    if error is None or not _has_begun_here(error):
        return None
    is_away = isinstance(error, NoAnswer) or unreachable.is_unreachable(error)
    return error if is_away else None


def _caught_in(record: logging.LogRecord) -> BaseException | None:
    """The error that the function which logs is handling."""
    error = sys.exc_info()[1]
    if error is None or error.__traceback__ is None:
        return None
    code = error.__traceback__.tb_frame.f_code
    is_its = (code.co_filename, code.co_name) == (record.pathname, record.funcName)
    return error if is_its else None


def _has_begun_here(error: BaseException) -> bool:
    """Whether DBOS or this package has called the database, and no code of the user's has."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in _LOGGERS and package not in sys.stdlib_module_names:
            return package in _DRIVERS
    return True


def _say(level: int, text: str) -> None:
    logger.log(level, "%s", text, extra={_FROM_HERE: True})
