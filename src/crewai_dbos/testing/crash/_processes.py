"""Processes to kill: forked from one that has imported everything, or fresh interpreters.

A process carries out one job, a function named ``module:function`` that gets a dict and returns
JSON data, and is watched from outside: its pid, what it returned, how it ended. The job comes over
a socket: everybody on the machine can read a command line, which has modules and descriptors only.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import faulthandler
import functools
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel

from crewai_dbos import _import_path, _private_files
from crewai_dbos._dbos_seam import IMPORTED_AT_LAUNCH
from crewai_dbos.testing.crash.errors import CrashTestError

# Numpy's BLAS starts threads when it is imported, and a process with threads must not fork.
_COMMAND = (sys.executable, "-c", f"import sys, {__name__} as p; p.main(*sys.argv[1:])")
# So does crewAI's telemetry.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "OTEL_SDK_DISABLED": "true",
}
# What DBOS, crewAI and we import with the launch, the first run and the first flow.
_IMPORTED_LATE = (
    IMPORTED_AT_LAUNCH,
    "sqlalchemy.dialects.sqlite",
    "crewai_dbos._crews.perform_crew",
    "crewai_dbos._flows.perform_flow",
    "crewai.hooks.contexts",
    "crewai.llms.cache",
    "crewai.memory.storage.lancedb_storage",
    "crewai.skills.tool",
    "httpcore",
)
# Threads whose libraries start them again in a forked process: of lancedb, and pyarrow's jemalloc.
_FORK_SAFE = ("LanceDBBackgroundEventLoop", "jemalloc_bg_thd")
# What every server has imported; of openai 490 modules that it imports at the first request.
FIRST = ("crewai_dbos.testing.crash._program", "openai.resources", "crewai_dbos.flow")
_SERVE = "serve"
"""Stands for the function of a job that is to be a server itself."""
_READY, _HAS_THREADS, _FAILED = b"+", b"t", b"-"
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
                [*_COMMAND, "job", str(theirs.fileno())],
                env=_environment(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        super().__init__(job, ours)
        self._said["pid"] = self._popen.pid
        ours.settimeout(PATIENCE)
        with contextlib.suppress(OSError):  # it has ended, or hangs: `wait` tells
            _send(ours, job.to_json())

    def _exit_code(self) -> int:
        with contextlib.suppress(EOFError):
            self._heard("exit")  # which a job never says: reads until the process is gone
        return self._popen.wait()


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
                command = [*_COMMAND, "serve", str(theirs.fileno())]
                self._popen = subprocess.Popen(
                    [*command, *modules],
                    env=_environment(),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # a report on stdout stays one
                    start_new_session=True,  # ctrl-C is for us; it ends when we do
                )
            else:
                order = {"modules": modules, "path": sys.path, "folder": os.getcwd()}
                job = Job(_SERVE, order, Path(), _environment())
                with like._sending:
                    _send(like._control, job.to_json(), theirs.fileno())
        answer = self._control.recv(1)
        if answer == _HAS_THREADS:
            self.stop()
            raise ThreadsError(f"importing {', '.join(modules)} starts threads")
        if answer != _READY:
            why = self._control.makefile().read()
            raise CrashTestError(why or f"Importing {', '.join(modules)} ended the process.")

    def start(self, job: Job) -> Process:
        ours, theirs = socket.socketpair()
        with theirs, self._sending:
            _send(self._control, job.to_json(), theirs.fileno())
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


def say(**words: Any) -> None:
    """From within a job: tell the test something at once."""
    assert _speaker is not None
    _speaker.sendall((json.dumps(words) + "\n").encode())


# Inside the processes ---------------------------------------------------------

_speaker: socket.socket | None = None


def _environment() -> dict[str, str]:
    # What is importable here is importable there, as a test's own modules are.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, **_ENVIRONMENT, "PYTHONPATH": path}


def _send(connection: socket.socket, text: str, *descriptors: int) -> None:
    data = text.encode()
    # Descriptors travel with the head, so that they stay with their job.
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
    connection.sendmsg([len(data).to_bytes(8, "big")], [rights] if descriptors else [])
    connection.sendall(data)


def _receive(connection: socket.socket) -> tuple[str, list[int]] | None:
    head, descriptors, _, _ = socket.recv_fds(connection, 8, 1)
    if not head:
        return None
    length = int.from_bytes(head, "big")
    return connection.recv(length, socket.MSG_WAITALL).decode(), descriptors


def _serve(control: socket.socket, modules: list[str]) -> None:
    try:
        for module in modules:
            _import_path.module(module)
    except _import_path.NotFoundError as error:
        traceback.print_exception(error.__cause__)
        control.sendall(_FAILED + str(error).encode())
        return
    for module in _IMPORTED_LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    _build_classes()
    gc.freeze()  # the collector would otherwise copy every page in every child
    gc.set_threshold(20_000, 20, 50)  # and not run all the time in one that lives for a second
    warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
    if not _can_fork():
        control.sendall(_HAS_THREADS)
        return
    control.sendall(_READY)

    children: dict[int, socket.socket] = {}
    woken, waker = socket.socketpair()
    for end in (woken, waker):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is woken:
                    woken.recv(4096)
                    _reap(children)
                    continue
                received = _receive(control)
                if received is None:
                    for pid in children:
                        os.kill(pid, signal.SIGKILL)
                    with contextlib.suppress(ChildProcessError):
                        while os.wait():
                            pass
                    return
                job, (descriptor,) = received
                connection = socket.socket(fileno=descriptor)
                order = Job.from_json(job)
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for inherited in (control, woken, waker, *children.values()):
                        inherited.close()
                    if order.function == _SERVE:
                        _serve_too(connection, order)
                    _work(connection, order)
                if order.function == _SERVE:
                    connection.close()  # it ends when its client does, as we do
                    continue
                children[pid] = connection
                _tell(connection, pid=pid)


def _serve_too(control: socket.socket, job: Job) -> NoReturn:
    """Be a server of other modules, as if it had been started by itself."""
    os.environ.clear()
    os.environ.update(job.environment)
    sys.path[:] = job.order["path"]
    os.chdir(job.order["folder"])
    try:
        _serve(control, job.order["modules"])
    finally:
        sys.stderr.flush()
        os._exit(0)


def _build_classes() -> None:
    """Build the classes that wait for their first instance, which every process has to make."""
    from crewai.events.types import agent_events

    from crewai_dbos._objects.clients import build_response_models

    build_response_models()
    for cls in vars(agent_events).values():
        if isinstance(cls, type) and issubclass(cls, BaseModel):
            cls.model_rebuild(raise_errors=False)


def _can_fork() -> bool:
    native = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
    of_python = threading.enumerate()
    if any(thread.name not in ("MainThread", *_FORK_SAFE) for thread in of_python):
        return False
    return not native or len([n for n in native if n not in _FORK_SAFE]) == len(of_python)


def _reap(children: dict[int, socket.socket]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        if pid not in children:
            continue  # a server
        with children.pop(pid) as connection:
            _tell(connection, exit=os.waitstatus_to_exitcode(status))


def _tell(connection: socket.socket, **words: Any) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        connection.sendall((json.dumps(words) + "\n").encode())


def _work(connection: socket.socket, job: Job) -> None:
    """Carry out `job` and leave without any of Python's clean-up, as a killed process would."""
    global _speaker
    _speaker = connection
    os.environ.update(job.environment)
    log = _private_files.to_append(job.log)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # Where a process hangs is in its log before it is killed for that.
    faulthandler.dump_traceback_later(PATIENCE * 0.75)
    code = 0
    try:
        say(result=_import_path.load(job.function)(job.order))
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def main(what: str, descriptor: str, *modules: str) -> None:
    connection = socket.socket(fileno=int(descriptor))
    if what == "serve":
        _serve(connection, list(modules))
    elif received := _receive(connection):
        _work(connection, Job.from_json(received[0]))
