"""Inside the processes: a server, which imports and forks, and the work at one job.

A job is a function named ``module:function`` that gets a dict and returns JSON data.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel

from crewai_dbos import _import_path, _private_files
from crewai_dbos._dbos_seam.instance import IMPORTED_AT_LAUNCH
from crewai_dbos.doctor._sources import is_project_s, parse_ahead
from crewai_dbos.testing.crash._jobs import (
    FAILED,
    HAS_THREADS,
    PATIENCE,
    READY,
    SERVE,
    Job,
    receive,
    tell,
)

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

_speaker: socket.socket | None = None


def main(what: str, descriptor: str, *modules: str) -> None:
    """What a process is started with, the collector off.

    Args:
        what: ``serve`` to import `modules` and fork for every job; ``job`` to carry out one.
        descriptor: The socket that jobs come over.
    """
    connection = socket.socket(fileno=int(descriptor))
    if what == "serve":
        _serve(connection, list(modules))
        return
    gc.enable()
    if received := receive(connection):
        _work(connection, Job.from_json(received[0]))


def _serve(control: socket.socket, modules: list[str]) -> None:
    try:
        _import(modules)
    except _import_path.NotFoundError as error:
        traceback.print_exception(error.__cause__)
        control.sendall(FAILED + str(error).encode())
        return
    gc.freeze()  # the collector would otherwise copy every page in every child
    gc.set_threshold(20_000, 20, 50)  # and not run all the time in one that lives for a second
    gc.enable()
    warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
    if not _can_fork():
        control.sendall(HAS_THREADS)
        return
    control.sendall(READY)
    _fork_for_every_job(control)


def _import(modules: list[str]) -> None:
    for module in modules:
        _import_path.module(module)
    for module in _IMPORTED_LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    _build_classes()
    for name, each in list(sys.modules.items()):
        if is_project_s(each) and not name.startswith("crewai_dbos."):
            parse_ahead(each)  # as each process would for itself


def _fork_for_every_job(control: socket.socket) -> None:
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
                received = receive(control)
                if received is None:
                    _kill(children)
                    return
                job, (descriptor,) = received
                connection = socket.socket(fileno=descriptor)
                _begin(Job.from_json(job), connection, children, (control, woken, waker))


def _begin(
    job: Job,
    connection: socket.socket,
    children: dict[int, socket.socket],
    of_the_server: tuple[socket.socket, ...],
) -> None:
    """Fork a process for `job`, which goes into `children` unless it is a server."""
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for inherited in (*of_the_server, *children.values()):
            inherited.close()
        if job.function == SERVE:
            _serve_too(connection, job)
        _work(connection, job)
    if job.function == SERVE:
        connection.close()  # it ends when its client does, as we do
        return
    children[pid] = connection
    tell(connection, pid=pid)


def _kill(children: dict[int, socket.socket]) -> None:
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while os.wait():
            pass


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
    from crewai import Agent, Crew, Task
    from crewai.events.types import agent_events
    from crewai.llms.providers.openai.completion import OpenAICompletion

    from crewai_dbos._agents.executor import DBOSAgentExecutor, StateWithId
    from crewai_dbos._agents.run_agent import agent_class
    from crewai_dbos._crews.member import member_class
    from crewai_dbos._crews.run_crew import crew_class
    from crewai_dbos._crews.run_task import task_class
    from crewai_dbos._objects.clients import build_response_models
    from crewai_dbos._objects.llm import llm_class

    build_response_models()
    agent_class(Agent)
    member_class(Agent)
    crew_class(Crew)
    task_class(Task)
    llm_class(OpenAICompletion)
    StateWithId.model_rebuild()
    DBOSAgentExecutor.model_rebuild()
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
            tell(connection, exit=os.waitstatus_to_exitcode(status))


def _work(connection: socket.socket, job: Job) -> NoReturn:
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


def say(**words: Any) -> None:
    """From within a job: tell the test something at once."""
    assert _speaker is not None
    _speaker.sendall((json.dumps(words) + "\n").encode())
