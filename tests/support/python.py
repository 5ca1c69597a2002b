"""Python programs, each in a process that finds crewAI imported already.

It is forked from one that has imported it, which takes seconds, and is what `python` would start
in all else: its own `__main__`, arguments, folder, environment, path, output and exit code. Tests
of what is imported when, of command lines and of variables that crewAI reads when it is imported
start the real thing.
"""

from __future__ import annotations

import atexit
import faulthandler
import functools
import json
import linecache
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crewai_dbos.testing.crash import _fork_server
from crewai_dbos.testing.crash._fork_server import FIRST, ForkServer, fork_server
from crewai_dbos.testing.crash._inside import _serve_too
from crewai_dbos.testing.crash._jobs import READY, Job
from crewai_dbos.testing.crash._processes import Process, environment


class Program:
    """``python`` with arguments, at work.

    Args:
        arguments: ``-m module``, ``-c code`` or the path of a program, and its own arguments.
        folder: Where it works.
        env: Its whole environment; by default ours.
        crash_tests: It runs some, whose processes are forked from one that has imported crewAI. By
            default it starts that, as any program does, which takes seconds.
    """

    def __init__(
        self,
        *arguments: str | Path,
        folder: Path,
        env: Mapping[str, str] | None = None,
        umask: int = -1,
        crash_tests: bool = False,
    ) -> None:
        self._output = tempfile.TemporaryDirectory()
        output = Path(self._output.name)
        self._files = [output / "stdout", output / "stderr"]
        order = {
            "arguments": [str(each) for each in arguments],
            "folder": str(folder),
            "env": dict(os.environ if env is None else env),
            "output": [str(file) for file in self._files],
            "umask": umask,
            "installed": _installed(),
            "crash_tests": crash_tests,
        }
        self.args = order["arguments"]
        self._process: Process = fork_server("support.python").start(
            Job("support.python:be", order, output / "log", {})
        )
        self.pid = self._process.pid
        self.returncode: int | None = None

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def says(self, text: str, timeout: float = 60) -> None:
        """Returns when `text` is in its output."""
        deadline = time.monotonic() + timeout
        while text not in self._texts()[0]:
            assert time.monotonic() < deadline, f"{self.args} said {self._texts()}"
            self.check_is_there()
            time.sleep(0.02)

    def check_is_there(self) -> None:
        """It has not ended."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            raise AssertionError(f"{self.args} ended:\n{self._texts()}") from None

    def end(self) -> None:
        """Leave nothing behind, whatever state it is in."""
        self._process.end()
        self._output.cleanup()

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for the end; its output and its errors."""
        end = self._process.wait(timeout)
        assert not end.late, f"{self.args} took longer than {timeout} s:\n{self._texts()}"
        self.returncode = end.code
        with self._output:
            return self._texts()

    def _texts(self) -> tuple[str, str]:
        output, errors = (file.read_text() if file.exists() else "" for file in self._files)
        return output, errors


def python(
    *arguments: str | Path,
    folder: Path,
    env: Mapping[str, str] | None = None,
    timeout: float = 110,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """As `Program`, when it has ended."""
    program = Program(*arguments, folder=folder, env=env, **options)
    said = program.communicate(timeout)
    assert program.returncode is not None
    return subprocess.CompletedProcess(program.args, program.returncode, *said)


@functools.cache
def _installed() -> list[str]:
    """Where every Python of this environment finds modules."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.path[1:]))"]
    return list(json.loads(subprocess.check_output(command, env=env)))


# Inside the process ---------------------------------------------------------------------------


def be(order: dict[str, Any]) -> None:
    """Turn the forked process into the program, to its end."""
    faulthandler.cancel_dump_traceback_later()
    os.chdir(order["folder"])
    if order["umask"] >= 0:
        os.umask(order["umask"])
    for number, path in enumerate(order["output"], start=1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    _set_path(order["env"], order["installed"])
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    tempfile.tempdir = None  # which is looked up once
    # A program of the tests may have modules of its own that are called like ours.
    for name in [name for name in sys.modules if name.partition(".")[0] == "support"]:
        del sys.modules[name]
    if order["crash_tests"]:
        _fork_a_server()
    code = 0
    try:
        _run(*order["arguments"])
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
        if code and not isinstance(left.code, int):
            print(left.code, file=sys.stderr)
    except BaseException as error:
        beyond = error.__traceback__
        while beyond and beyond.tb_next and beyond.tb_frame.f_code.co_filename == __file__:
            beyond = beyond.tb_next
        traceback.print_exception(error.with_traceback(beyond))
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    # What an interpreter does at its end.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code)


def _fork_a_server() -> None:
    """Have crash tests find their first server started: a copy of this process as it is now."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        os.dup2(2, 1)
        order = {"modules": FIRST, "path": sys.path, "folder": os.getcwd()}
        _serve_too(theirs, Job("", order, Path(), environment()))
    theirs.close()
    first = ForkServer.__new__(ForkServer)
    first._control, first._sending, first._popen = ours, threading.Lock(), None
    assert ours.recv(1) == READY
    atexit.register(lambda: (first.stop(), os.waitpid(pid, 0)))
    start = _fork_server._server

    def server(modules: tuple[str, ...], path: tuple[str, ...]) -> ForkServer:
        return first if (modules, path) == (FIRST, ()) else start(modules, path)

    _fork_server._server = server  # type: ignore[assignment]


def _set_path(env: Mapping[str, str], installed: list[str]) -> None:
    """`sys.path` as a new process would have it in this environment."""
    given = [os.path.abspath(each) for each in env.get("PYTHONPATH", "").split(os.pathsep) if each]
    sys.path[:] = [*given, *installed]


def _run(first: str, *rest: str) -> None:
    if first == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv[:] = list(rest)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    if first == "-c":
        sys.path.insert(0, "")
        sys.argv[:] = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec", dont_inherit=True), vars(main))
        return
    path = os.path.abspath(first)
    main.__file__ = path
    sys.path.insert(0, os.path.dirname(path))
    sys.argv[:] = [first, *rest]
    source = Path(path).read_text()
    linecache.checkcache(path)
    exec(compile(source, path, "exec", dont_inherit=True), vars(main))
