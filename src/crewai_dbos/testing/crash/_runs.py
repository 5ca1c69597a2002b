"""Runs of a definition in processes of their own, which are killed on the way, and observed."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from dbos import DBOSClient

from crewai_dbos.control import Control
from crewai_dbos.testing._app import Script
from crewai_dbos.testing.crash import _program
from crewai_dbos.testing.crash._answering import Answers, answering
from crewai_dbos.testing.crash._databases import Databases
from crewai_dbos.testing.crash._faults import entry_of
from crewai_dbos.testing.crash._fork_server import FIRST, ThreadsError, fork_server
from crewai_dbos.testing.crash._jobs import Job
from crewai_dbos.testing.crash._processes import FreshProcess, Process
from crewai_dbos.testing.crash.positions import Position
from crewai_dbos.testing.crash.verdict import Observed
from crewai_dbos.testing.effects import EFFECTS, EffectLog
from crewai_dbos.testing.model_server import ModelServer, ScriptError
from crewai_dbos.testing.replies import Message, Reply
from crewai_dbos.testing.request import Request

_PROGRAM = _program.__name__


class Runs:
    """Makes runs of one work order, each with a fresh database and a fresh model server.

    Args:
        order: What a process is asked to do, as JSON data: `_program` has its form.
        modules: What a process imports for it.
        script: Of the model server; None for the definition's own model.
        database: ``sqlite``, or the URL of a Postgres server's database.
        fresh: Whether each process is a new interpreter.
        environment: Additional variables of the processes.
        timeout: Seconds after which a process is taken to hang.
        people: What people say; None if nobody does.
    """

    def __init__(
        self,
        order: Mapping[str, Any],
        modules: Sequence[str],
        script: Script | None,
        *,
        database: str,
        fresh: bool,
        environment: Mapping[str, str],
        timeout: float,
        people: Answers | None = None,
    ) -> None:
        self._order = order
        self._modules = modules
        self._script = script
        self._database = database
        self._fresh = fresh
        self._environment = environment
        self._timeout = timeout
        self._people = people
        self._stack = ExitStack()
        self._starting = threading.Lock()
        self._spawn: Callable[[Job], Process] | None = None

    def close(self) -> None:
        """End every process and drop every database."""
        self._stack.close()
        self._spawn = None

    def observe(self, kills: Sequence[Position]) -> Observed:
        """Make a run; the first process is killed at the first position, and so on."""
        spawn, databases, directory = self._started()
        observed = Observed()
        with _told(observed), ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=directory)))
            url = stack.enter_context(databases.fresh())
            said = stack.enter_context(answering(url, self._people)) if self._people else []
            model = stack.enter_context(_Killer(self._script)) if self._script else None
            effects, events = EffectLog(folder / "effects"), EffectLog(folder / "events")
            for position in (*kills, None):
                fault: dict[str, str] = {"log": str(events.path)}
                environment = {**self._environment, EFFECTS: str(effects.path)}
                if model is not None:
                    fault["model_url"] = model.server.base_url
                    environment.update(model.server.env)
                    model.aim(position)
                if position is not None and not position.by_model:
                    fault.update(entry=position.entry, moment=position.moment)
                job = f"{_PROGRAM}:{'recover' if observed.deaths else 'start'}"
                order = {**self._order, "database_url": url, "fault": fault}
                process = spawn(Job(job, order, folder / "log", environment))
                if model is not None:
                    model.victim.set_result(process)
                end = process.wait(self._timeout)
                if end.killed:
                    observed.deaths += 1
                    continue
                observed.ended = end.result or {}
                if end.code != 0:
                    observed.trouble = f"a process ended otherwise: {end}"
                    if end.late and self._people is None:
                        observed.trouble += _asked_of_nobody(url)
                break
            if said:
                observed.trouble = "; ".join(filter(None, (observed.trouble, *said)))
            observed.rows = _rows(url)
            observed.events, observed.effects = events.read(), effects.read()
            observed.requests = model.server.requests if model is not None else []
            log = folder / "log"
            observed.log = log.read_text(errors="replace") if log.exists() else ""
        return observed

    def _started(self) -> tuple[Callable[[Job], Process], Databases, Path]:
        with self._starting:
            if self._spawn is None:
                temporary = tempfile.TemporaryDirectory(prefix="crewai-dbos-crash-")
                self._directory = Path(self._stack.enter_context(temporary))
                self._databases = Databases(self._database, self._directory)
                self._stack.callback(self._databases.close)
                self._spawn = FreshProcess if self._fresh else self._forking()
            return self._spawn, self._databases, self._directory

    def _forking(self) -> Callable[[Job], Process]:
        try:
            return fork_server(*dict.fromkeys(self._modules)).start
        except ThreadsError:
            # Then each process imports these itself, and finds crewAI imported already.
            return fork_server(*FIRST).start


def _asked_of_nobody(url: str) -> str:
    """That the run waits for a person, if it does."""
    with Control(url) as control:
        for request in control.requests():
            return (
                f". It waits for a person ({request.question.message}): say who answers, with "
                "people=, on the command line --people MODULE:ANSWERS"
            )
    return ""


@contextlib.contextmanager
def _told(observed: Observed) -> Iterator[None]:
    """A script without a reply is trouble of that run only."""
    try:
        yield
    except ScriptError as error:
        observed.trouble = "; ".join(filter(None, (observed.trouble, str(error))))


class _Killer(AbstractContextManager["_Killer"]):
    """A model server that kills the process which makes the request of one entry."""

    def __init__(self, script: Script) -> None:
        self.server = ModelServer(self._reply)
        self.victim: Future[Process] = Future()
        self._doomed: str | None = None
        self._script = script

    def __enter__(self) -> _Killer:
        self.server.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.server.__exit__(*error)

    def aim(self, position: Position | None) -> None:
        """The next process is to die at `position`, if that is the server's business."""
        self._doomed = position.entry if position is not None and position.by_model else None
        self.victim = Future()

    def _reply(self, request: Request) -> Reply:
        if self._doomed and entry_of(request) == self._doomed:
            # The client waits for this reply: the request is made and has no outcome.
            self.victim.result(timeout=60).kill()
        reply = self._script(request)
        return Message(reply) if isinstance(reply, str) else reply


def _rows(database_url: str) -> list[str]:
    client = DBOSClient(system_database_url=database_url)
    try:
        return sorted(s["function_name"] for s in client.list_workflow_steps(_program.RUN))
    finally:
        client.destroy()
