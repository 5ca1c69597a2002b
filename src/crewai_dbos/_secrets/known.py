"""The secrets that this process knows of, and a log that does not show them."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from crewai_dbos._dbos_seam.configuration import whole_configuration
from crewai_dbos._secrets.cutting import cutter
from crewai_dbos._secrets.finding import Found, of_dbos, of_environment, secrets_in
from crewai_dbos._secrets.texts import texts_in

MOST = 4096
"""Secrets of definitions that are known at a time; the oldest go."""


class _Known:
    """Secrets by their text, each with its name. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._told: OrderedDict[str, str] = OrderedDict()
        self._around: dict[str, str] = {}
        self._environment: dict[Any, Any] | None = None
        self._configuration: dict[str, Any] | None = None
        self._hide: Callable[[str], str] | None = None

    def tell(self, found: Iterable[Found]) -> set[str]:
        found, texts = list(found), set()
        with self._lock:
            for name, text in found:
                texts.add(text)
                if text not in self._told:
                    self._told[text] = name
                    self._hide = None
                self._told.move_to_end(text)
            while len(self._told) > MOST:
                self._told.popitem(last=False)
                self._hide = None
        return texts

    def named(self) -> dict[str, str]:
        with self._lock:
            self._look_around()
            return {**self._told, **self._around}

    def hide(self, text: str) -> str:
        with self._lock:
            self._look_around()
            if self._hide is None:
                self._hide = cutter({*self._told, *self._around})
            hide = self._hide
        return hide(text)

    def _look_around(self) -> None:
        """Look through the environment and DBOS's configuration, if they are not as before."""
        # As the system has it: to decode it takes longer than all else here, at each call.
        environment = dict(getattr(os.environ, "_data", os.environ))
        configured = whole_configuration()
        if environment == self._environment and configured == self._configuration:
            return
        self._environment, self._configuration = environment, configured
        # What is taken out of the environment is a secret as before.
        self.tell(Found(name, text) for text, name in self._around.items())
        self._around = {text: name for name, text in (*of_dbos(), *of_environment())}
        self._hide = None


_known = _Known()


def tell(found: Iterable[Found]) -> set[str]:
    """Know these secrets from now on. Returns their texts."""
    return _known.tell(found)


def named() -> dict[str, str]:
    """What each secret is called that is known: of definitions, the environment and DBOS."""
    return _known.named()


def found_in(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The fields with a known secret in their texts, each with what that is called."""
    secrets = named().items()
    for field, value in fields.items():
        for text in texts_in(value):
            yield from ((field, name) for secret, name in secrets if secret in text)


def hide(text: str) -> str:
    """`text` without what is known, and without credentials that show themselves."""
    return _known.hide(text)


def shown(value: Any) -> str:
    """`value` in an error message: its `repr`, short and without the secrets in it."""
    text = hide(cutter(found.text for found in secrets_in(value))(repr(value)))
    return text if len(text) <= 200 else f"{text[:200]}…"


class OfRun(set[str]):
    """The secrets of the objects that one run works with."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[int, Any] = {}

    def look_at(self, *objects: Any) -> None:
        """Find the secrets in `objects`, unless they were looked at before."""
        for each in objects:
            self.update(tell(secrets_in(each, self._seen)))


class _Filter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except Exception:
            return True  # the handler says what is wrong with the call
        hidden = hide(message)
        if hidden != message:
            record.msg, record.args = hidden, ()
        if record.exc_info and record.exc_info[0] is not None:
            told = record.exc_text or logging.Formatter().formatException(record.exc_info)
            hidden = hide(told)
            if hidden != told:
                # A handler that formats the exception itself would show it.
                record.exc_info, record.exc_text = None, hidden
        if record.stack_info:
            record.stack_info = hide(record.stack_info)
        return True


_filter = _Filter()


def keep_out_of_the_log() -> None:
    """Cut what is known out of the records of our logger. Any number of times."""
    logging.getLogger("crewai_dbos").addFilter(_filter)
