"""The log of `crewai-dbos worker`: a time and a level in each line, whoever has written it."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import Enum
from pathlib import PurePath

import typer

logger = logging.getLogger("crewai_dbos")

_OF_LIBRARIES = ("site-packages", "dist-packages")
_OF_PYTHON = os.path.join(os.path.dirname(os.__file__), "")
_CONSOLE = "__dbos_console_log_handler__"
"""The name of the handler that DBOS gives its logger if that has none."""


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


def set_up(level: Level, form: Format, packages: Iterable[str]) -> None:
    """Write to standard error what the application, this package, DBOS and all others log.

    Args:
        level: What is told. Of DBOS, which sets its own when it is constructed, and of libraries to
            which the application gives no level only warnings and what is worse are.
        form: Of the lines.
        packages: Those of the application, which may be installed as libraries are.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Text() if form is Format.TEXT else _Json())
    handler.addFilter(_Libraries(packages))
    logging.basicConfig(level=level.number, handlers=[handler], force=True)
    logger.setLevel(level.number)
    _have_dbos_write_to_the_root()


def hold() -> None:
    """See to it that what the command logs is told, after the application has set up logging.

    Its ``dictConfig`` disables what it does not name, if it does not say otherwise.
    """
    logger.disabled = False
    _have_dbos_write_to_the_root()


def _have_dbos_write_to_the_root() -> None:
    of_dbos = logging.getLogger("dbos")
    of_dbos.disabled = False
    if any(each.name == _CONSOLE for each in of_dbos.handlers):
        of_dbos.handlers = [each for each in of_dbos.handlers if each.name != _CONSOLE]
        of_dbos.propagate = True
    if not of_dbos.handlers:
        of_dbos.addHandler(logging.NullHandler())


def tell_of_dbos(level: Level) -> None:
    """Have DBOS, which is constructed by now, log from this level on."""
    logging.getLogger("dbos").setLevel(level.number)


def tell_the_end(message: str) -> None:
    """Log what ends the command, or print it if nobody would see the line."""
    hold()
    if logger.isEnabledFor(logging.ERROR) and _is_written(logger):
        logger.error("%s", message)
    else:
        typer.echo(message, err=True)


@contextlib.contextmanager
def without_failed_launch() -> Iterator[None]:
    """Leave out that a launch has failed, with a traceback, which the command tells in a line."""

    def is_another(record: logging.LogRecord) -> bool:
        is_debug = logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
        return is_debug or not record.getMessage().startswith("DBOS failed to launch")

    of_dbos = logging.getLogger("dbos")
    of_dbos.addFilter(is_another)
    try:
        yield
    finally:
        of_dbos.removeFilter(is_another)


def _is_written(by: logging.Logger | None) -> bool:
    """Whether any handler writes the errors that are logged by it."""
    while by is not None:
        for handler in by.handlers:
            if not isinstance(handler, logging.NullHandler) and handler.level <= logging.ERROR:
                return True
        by = by.parent if by.propagate else None
    return False


class _Libraries(logging.Filter):
    """Leaves out what libraries log below warnings, if nobody has given their loggers a level."""

    def __init__(self, packages: Iterable[str]) -> None:
        super().__init__()
        self._packages = {*packages}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING or _has_level(logging.getLogger(record.name)):
            return True
        *_, package = ["", *_after(_OF_LIBRARIES, PurePath(record.pathname).parts)]
        if package:
            return package.removesuffix(".py") in self._packages
        return not record.pathname.startswith(_OF_PYTHON)


def _has_level(of: logging.Logger) -> bool:
    """Whether it has a level of its own, and not the root's."""
    while of.parent is not None:
        if of.level:
            return True
        of = of.parent
    return False


def _after(folders: tuple[str, ...], parts: tuple[str, ...]) -> list[str]:
    """What is in one of `folders`, of the parts of a path."""
    return [inner for outer, inner in itertools.pairwise(parts) if outer in folders]


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
