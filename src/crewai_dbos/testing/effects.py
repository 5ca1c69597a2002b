"""A count of side effects that outlives the process that had them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EFFECTS = "CREWAI_DBOS_EFFECTS"
"""Environment variable that names the file of `report_effect`."""


@dataclass(frozen=True)
class Effect:
    """One reported effect: its kind, the fields given, who reported it and when."""

    kind: str
    fields: Mapping[str, Any]
    pid: int
    at: float


class EffectLog:
    """An append-only log of effects in one file, for any number of processes on one machine.

    A report is in the file when `report` returns, and stays there if the process is then killed.
    A file that is made here is its owner's only.

    Example::

        from crewai_dbos.testing import EffectLog

        log = EffectLog("effects.jsonl")
        log.report("email", to="ann")
        assert log.count("email", to="ann") == 1
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def report(self, kind: str, /, **fields: Any) -> None:
        """Append one effect. `fields` must be JSON data.

        Example::

            from crewai_dbos.testing import EffectLog

            EffectLog("effects.jsonl").report("email", to="ann")
        """
        record = {"kind": kind, "fields": fields, "pid": os.getpid(), "at": time.time()}
        line = (json.dumps(record) + "\n").encode()
        # One write to an O_APPEND descriptor cannot mix with another process's, and what the
        # kernel has accepted survives SIGKILL. Buffered file objects promise neither.
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if os.write(descriptor, line) != len(line):
                raise OSError(f"{self.path}: the effect was not written whole")
        finally:
            os.close(descriptor)

    def read(self) -> list[Effect]:
        """Every effect so far, oldest first; none when the file does not exist yet.

        Example::

            from crewai_dbos.testing import EffectLog

            for effect in EffectLog("effects.jsonl").read():
                print(effect.kind, effect.fields, effect.pid)
        """
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return []
        # What follows the last newline is a report still being written, or nothing.
        return [Effect(**json.loads(line)) for line in text.split("\n")[:-1]]

    def count(self, kind: str, /, **match: Any) -> int:
        """How many effects of this kind have all the given fields.

        Example::

            from crewai_dbos.testing import EffectLog

            assert EffectLog("effects.jsonl").count("email", to="bob") == 0
        """
        return sum(
            effect.kind == kind and all(effect.fields.get(k) == v for k, v in match.items())
            for effect in self.read()
        )


def report_effect(kind: str, /, **fields: Any) -> None:
    """In a tool under test: tell the test that an effect has happened. Elsewhere nothing.

    Args:
        kind: What happened, as ``email``.
        fields: What tells one from another, JSON data.

    Example::

        from crewai.tools import tool
        from crewai_dbos.testing import report_effect

        @tool
        def send_email(to: str) -> str:
            '''Send an email.'''
            report_effect("email", to=to)
            return "sent"
    """
    path = os.environ.get(EFFECTS)
    if path:
        EffectLog(path).report(kind, **fields)
