"""Processes that carry out one job each, watched from outside: to be heard, killed, waited for."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from crewai_dbos import _private_files
from crewai_dbos.testing.crash import _inside
from crewai_dbos.testing.crash._jobs import PATIENCE, Job, send

# The collector would look at what is imported again and again: a fifth of the time.
_PROGRAM = f"import gc, sys; gc.disable(); import {_inside.__name__} as p; p.main(*sys.argv[1:])"
COMMAND = (sys.executable, "-c", _PROGRAM)
"""Starts a process; its arguments are those of `_inside.main`."""
# Numpy's BLAS starts threads when it is imported, and so does crewAI's telemetry. A process with
# threads must not fork.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "OTEL_SDK_DISABLED": "true",
}


def environment() -> dict[str, str]:
    """The variables that a process is started with."""
    # What is importable here is importable there, as a test's own modules are.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, **_ENVIRONMENT, "PYTHONPATH": path}


@dataclass(frozen=True)
class End:
    """How a process ended: its exit code (negative for a signal) and what the job returned.

    `late` is one that was killed because it did not end in time.
    """

    code: int
    result: Any = None
    late: bool = False

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL and not self.late

    def __str__(self) -> str:
        return "out of time" if self.late else f"exit code {self.code}"


class Process:
    """A process at work. `wait` returns when it is gone and its parent has reaped it."""

    def __init__(self, job: Job, connection: socket.socket) -> None:
        self.job = job
        self._connection = connection
        self._unread = b""
        self._said: dict[str, Any] = {}

    @property
    def pid(self) -> int:
        return int(self._said["pid"])

    def kill(self) -> None:
        """SIGKILL, for a process that is known to be alive."""
        os.kill(self.pid, signal.SIGKILL)

    def hear(self, word: str, timeout: float = PATIENCE) -> Any:
        """Wait until the job says `word`.

        Raises:
            EOFError: It ended without.
            TimeoutError: It still has not.
        """
        self._connection.settimeout(timeout)
        return self._heard(word)

    def wait(self, timeout: float = PATIENCE) -> End:
        """Wait for the end; a process that takes longer than `timeout` is killed."""
        self._connection.settimeout(timeout)
        late = False
        try:
            code = self._exit_code()
        except TimeoutError:
            late = True
            self.kill()
            self._connection.settimeout(PATIENCE)
            code = self._exit_code()
        self._connection.close()
        return End(code, self._said.get("result"), late)

    def end(self) -> None:
        """Leave nothing behind, whatever state it is in."""
        if self._connection.fileno() >= 0:
            with contextlib.suppress(ProcessLookupError):
                self.kill()
            self.wait()

    def output(self) -> str:
        return self.job.log.read_text() if self.job.log.exists() else ""

    def _exit_code(self) -> int:
        return int(self._heard("exit"))

    def _heard(self, word: str) -> Any:
        while word not in self._said:
            data = self._connection.recv(65536)
            if not data:
                raise EOFError(f"{self.job.function} did not say {word!r}:\n{self.output()}")
            *lines, self._unread = (self._unread + data).split(b"\n")
            for line in lines:
                self._said.update(json.loads(line))
        return self._said[word]


class FreshProcess(Process):
    """A new interpreter."""

    def __init__(self, job: Job) -> None:
        ours, theirs = socket.socketpair()
        with theirs, os.fdopen(_private_files.to_append(job.log), "ab") as log:
            self._popen = subprocess.Popen(
                [*COMMAND, "job", str(theirs.fileno())],
                env=environment(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        super().__init__(job, ours)
        self._said["pid"] = self._popen.pid
        ours.settimeout(PATIENCE)
        with contextlib.suppress(OSError):  # it has ended, or hangs: `wait` tells
            send(ours, job.to_json())

    def _exit_code(self) -> int:
        with contextlib.suppress(EOFError):
            self._heard("exit")  # which a job never says: reads until the process is gone
        return self._popen.wait()
