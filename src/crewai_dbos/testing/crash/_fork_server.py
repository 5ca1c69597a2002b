"""Processes that are forked from one that has imported everything, which takes seconds."""

from __future__ import annotations

import atexit
import functools
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from crewai_dbos.testing.crash._jobs import HAS_THREADS, READY, SERVE, Job, send
from crewai_dbos.testing.crash._processes import COMMAND, Process, environment
from crewai_dbos.testing.crash.errors import CrashTestError

# What every server has imported; of openai 490 modules that it imports at the first request.
FIRST = ("crewai_dbos.testing.crash._program", "openai.resources", "crewai_dbos.flow")


class ThreadsError(RuntimeError):
    """A process with threads must not be forked, but for those that are made for it."""


class ForkServer:
    """A process that imports `modules`, starts no thread, and forks itself for every job.

    Args:
        like: Another one to fork it from, which has imported most of it.
    """

    def __init__(self, *modules: str, like: ForkServer | None = None) -> None:
        self._sending = threading.Lock()
        self._control, theirs = socket.socketpair()
        self._popen: subprocess.Popen[bytes] | None = None
        with theirs:
            if like is None:
                command = [*COMMAND, "serve", str(theirs.fileno())]
                self._popen = subprocess.Popen(
                    [*command, *modules],
                    env=environment(),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # a report on stdout stays one
                    start_new_session=True,  # ctrl-C is for us; it ends when we do
                )
            else:
                order = {"modules": modules, "path": sys.path, "folder": os.getcwd()}
                job = Job(SERVE, order, Path(), environment())
                with like._sending:
                    send(like._control, job.to_json(), theirs.fileno())
        answer = self._control.recv(1)
        if answer == HAS_THREADS:
            self.stop()
            raise ThreadsError(f"importing {', '.join(modules)} starts threads")
        if answer != READY:
            why = self._control.makefile().read()
            raise CrashTestError(why or f"Importing {', '.join(modules)} ended the process.")

    def start(self, job: Job) -> Process:
        ours, theirs = socket.socketpair()
        with theirs, self._sending:
            send(self._control, job.to_json(), theirs.fileno())
        process = Process(job, ours)
        process.hear("pid")
        return process

    def stop(self) -> None:
        with self._control:
            self._control.shutdown(socket.SHUT_WR)
            while self._control.recv(4096):
                pass
        if self._popen is not None:
            self._popen.wait()


def fork_server(*modules: str) -> ForkServer:
    """The server that has imported `modules` from where they are found now.

    All are forked from the one that has imported crewAI, which takes seconds, and are there until
    this process ends.
    """
    return _server(modules, tuple(sys.path))


@functools.cache
def _server(modules: tuple[str, ...], path: tuple[str, ...]) -> ForkServer:
    is_first = (modules, path) == (FIRST, ())
    server = ForkServer(*modules, like=None if is_first else _server(FIRST, ()))
    atexit.register(server.stop)
    return server
