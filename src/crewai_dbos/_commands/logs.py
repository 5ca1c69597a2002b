"""The log of `crewai-dbos worker`: a time and a level in each line, whoever has written it."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from enum import Enum


class Level(str, Enum):
    """How much is told."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def number(self) -> int:
        return int(getattr(logging, self.name))


class Format(str, Enum):
    """How a line looks."""

    TEXT = "text"
    JSON = "json"


def set_up(level: Level, form: Format) -> None:
    """Write to standard error what this package, DBOS and all others log.

    Args:
        level: Of this package and of DBOS, which sets its own when it is constructed. Of others
            only warnings and what is worse are told.
        form: Of the lines.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Text() if form is Format.TEXT else _Json())
    logging.basicConfig(level=max(logging.WARNING, level.number), handlers=[handler], force=True)
    logging.getLogger("crewai_dbos").setLevel(level.number)
    # DBOS gives its logger a handler with a format of its own, if there is none.
    of_dbos = logging.getLogger("dbos")
    of_dbos.handlers = [handler]
    of_dbos.propagate = False


def tell_of_dbos(level: Level) -> None:
    """Have DBOS, which is constructed by now, log from this level on."""
    logging.getLogger("dbos").setLevel(level.number)


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return _time(record)


class _Json(logging.Formatter):
    """An object a line: `time`, `level`, `logger`, `message`, and `exception` if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        told = record.exc_text or (record.exc_info and self.formatException(record.exc_info))
        return json.dumps({**line, "exception": told} if told else line)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
