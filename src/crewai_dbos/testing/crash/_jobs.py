"""What a process is given to do, and what it says of that, as both travel over a socket.

A job does not stand on the command line, which everybody on the machine can read.
"""

from __future__ import annotations

import array
import contextlib
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVE = "serve"
"""Stands for the function of a job that is to be a server itself."""
READY, HAS_THREADS, FAILED = b"+", b"t", b"-"
"""What a server says first: it waits for jobs, must not fork, could not import."""
PATIENCE = 60.0
"""Seconds after which a process is taken to hang."""


@dataclass(frozen=True)
class Job:
    """What one process does.

    Attributes:
        function: ``module:function``.
        order: The function's argument, plain JSON.
        log: A file for its stdout and stderr.
        environment: Additional variables.
    """

    function: str
    order: dict[str, Any]
    log: Path
    environment: dict[str, str]

    def to_json(self) -> str:
        return json.dumps({**vars(self), "log": str(self.log)})

    @classmethod
    def from_json(cls, text: str) -> Job:
        fields = json.loads(text)
        return cls(**{**fields, "log": Path(fields["log"])})


def send(connection: socket.socket, text: str, *descriptors: int) -> None:
    """Send a job, and descriptors with it."""
    data = text.encode()
    # Descriptors travel with the head, so that they stay with their job.
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
    connection.sendmsg([len(data).to_bytes(8, "big")], [rights] if descriptors else [])
    connection.sendall(data)


def receive(connection: socket.socket) -> tuple[str, list[int]] | None:
    """The next job and its descriptors; None if there will be none."""
    head, descriptors, _, _ = socket.recv_fds(connection, 8, 1)
    if not head:
        return None
    length = int.from_bytes(head, "big")
    return connection.recv(length, socket.MSG_WAITALL).decode(), descriptors


def tell(connection: socket.socket, **words: Any) -> None:
    """Say something of a job to whoever has given it."""
    with contextlib.suppress(OSError):  # nobody listens any more
        connection.sendall((json.dumps(words) + "\n").encode())
