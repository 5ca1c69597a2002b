"""Child processes that are made ready early, started when needed and killed without warning."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import crewai_dbos

_QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "CREWAI_TESTING": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "OTEL_SDK_DISABLED": "true",
}
# What a user has set for crewAI, DBOS and a provider must not reach the demo.
_DROPPED = ("CREWAI", "DBOS", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "OPENAI", "OTEL", "XDG_")


class ChildError(Exception):
    """A process did not do what it was started for; the message ends with what it wrote."""


class Child:
    """One process of the demo in a folder of its own making.

    Args:
        role: What it does; see `child`.
        folder: Its home and working directory.
        env: Variables beside those that keep it quiet.
    """

    def __init__(self, role: str, folder: Path, env: Mapping[str, str]) -> None:
        self.role = role
        self._log = folder / f"{role}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "crewai_dbos._demo.child", role],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env=_environment(folder, env),
                text=True,
            )
        self.pid = self._process.pid
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def wait_until_ready(self) -> None:
        """Block until the process has imported crewAI."""
        self.read(timeout=180)

    def start(self) -> None:
        """Let it do its work."""
        assert self._process.stdin is not None
        self._process.stdin.write("start\n")
        self._process.stdin.flush()

    def read(self, timeout: float) -> str:
        """The next line that the process says.

        Raises:
            ChildError: It ended, or said nothing in `timeout` seconds.
        """
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise ChildError(self._trouble(f"was silent for {timeout:.0f} s")) from None
        if line is None:
            raise ChildError(self._trouble(f"ended with exit code {self._process.wait()}"))
        return line

    def check(self) -> None:
        """Raise `ChildError` if the process has ended."""
        code = self._process.poll()
        if code is not None:
            raise ChildError(self._trouble(f"ended with exit code {code}"))

    def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is flushed."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._lines.put(line.strip())
        except ValueError:  # closed while reading
            pass
        self._lines.put(None)

    def _trouble(self, what: str) -> str:
        tail = self._log.read_text(errors="replace").splitlines()[-15:]
        return "\n".join([f"The process {self.role} (pid {self.pid}) {what}.", *tail])


def _environment(folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.upper().startswith(_DROPPED)
    }
    # The child runs elsewhere, where a relative PYTHONPATH means nothing.
    source = str(Path(crewai_dbos.__file__).parents[1])
    path = os.pathsep.join(filter(None, [source, kept.get("PYTHONPATH")]))
    return {**kept, **_QUIET, "HOME": str(folder), "PYTHONPATH": path, **env}
