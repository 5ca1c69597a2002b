"""Child processes that are made ready early, started when needed and killed without warning."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import crewai_dbos
from crewai_dbos import _private_files

_QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "CREWAI_TESTING": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "OTEL_SDK_DISABLED": "true",
}
# What is set for the user's own crewAI, DBOS and provider must not reach the demo.
_DROPPED = ("ALL_PROXY", "CREWAI", "DBOS", "HTTP_PROXY", "HTTPS_PROXY", "OPENAI", "OTEL", "XDG_")

_IMPORT_PATIENCE = 180.0


class ChildError(Exception):
    """A process did not do its part. The message ends with what it wrote last."""


class Child:
    """One process of the demo, with `folder` as its home and working directory.

    Args:
        role: What it does; see `child`.
        folder: Where its output goes too.
        env: Variables beside those that keep it quiet.
    """

    def __init__(self, role: str, folder: Path, env: Mapping[str, str]) -> None:
        self.is_ready = False
        self._role = role
        self._log = folder / f"{role}.log"
        with os.fdopen(_private_files.to_append(self._log), "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "crewai_dbos._demo.child", role],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env=_environment(folder, env),
                umask=0o077,  # all that it writes is in our folder
                text=True,
            )
        self.pid = self._process.pid
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def wait_until_ready(self) -> None:
        """Block until the process has imported crewAI."""
        self.read(_IMPORT_PATIENCE)
        self.is_ready = True

    def start(self) -> None:
        """Let it do its work."""
        assert self._process.stdin is not None
        self._process.stdin.write("start\n")
        self._process.stdin.flush()

    def read(self, timeout: float) -> str:
        """The next line that the process says.

        Raises:
            ChildError: It ended, or said nothing for `timeout` seconds.
        """
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise self._error(f"said nothing for {timeout:.0f} s") from None
        if line is None:
            raise self._error(f"ended with exit code {self._process.wait()}")
        return line

    def check(self, deadline: float) -> None:
        """Raise `ChildError` if the process has ended or `deadline` (monotonic) is over."""
        code = self._process.poll()
        if code is not None:
            raise self._error(f"ended with exit code {code}")
        if time.monotonic() > deadline:
            raise self._error("got stuck")

    def kill(self) -> None:
        """SIGKILL: no handler runs and nothing is flushed."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        self._listener.join()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.stdout.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.strip())
        self._lines.put(None)

    def _error(self, what: str) -> ChildError:
        tail = self._log.read_text(errors="replace").splitlines()[-15:]
        return ChildError("\n".join([f"The process {self._role!r} ({self.pid}) {what}.", *tail]))


def _environment(folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.upper().startswith(_DROPPED)
    }
    # The child runs in another directory, where a relative PYTHONPATH means nothing.
    source = str(Path(crewai_dbos.__file__).parents[1])
    path = os.pathsep.join(filter(None, [source, kept.get("PYTHONPATH")]))
    return {**kept, **_QUIET, "HOME": str(folder), "PYTHONPATH": path, **env}
