"""The crash, twice: killed at the same place with and without crewai-dbos, and counted."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dbos import DBOSClient

from crewai_dbos._demo.child import RUN_ID
from crewai_dbos._demo.model import Model
from crewai_dbos._demo.process import Child, ChildError
from crewai_dbos._entry import Entry, read_entry
from crewai_dbos.testing import EffectLog, Message, ModelServer, Request

_EMAILS_BEFORE_THE_KILL = 2
_PATIENCE = 60.0


@dataclass(frozen=True)
class Event:
    """Something that happened just now, for a person who watches.

    Attributes:
        kind: ``part``, ``start``, ``llm``, ``email``, ``kill``, ``journal`` or ``end``.
        pid: The process that it happened in, if it was one.
    """

    kind: str
    text: str
    pid: int | None = None


Tell = Callable[[Event], None]
Waiting = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True)
class Step:
    """A row of the run's journal."""

    number: int
    name: str
    kind: str
    tokens: int
    replayed: bool


@dataclass(frozen=True)
class Figures:
    """What one way of running the agent came to. Counted outside the processes that ran it.

    Attributes:
        llm_calls: Requests that reached the model server.
        llm_calls_cut_off: Those of them that the kill left without an answer.
        emails: The addressees, in order, from the log that the tool appends to.
        replayed_llm_calls: Recorded before the kill, and not made again.
        tokens: Of the answered requests, as the server counted them.
        tokens_saved: Of the replayed requests, as the journal has them.
    """

    processes: int
    llm_calls: int
    llm_calls_cut_off: int
    emails: list[str]
    emails_sent_twice: list[str]
    replayed_llm_calls: int
    replayed_tool_calls: int
    tokens: int
    tokens_saved: int
    result: str
    journal: list[Step] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    durable: Figures
    plain: Figures


def run(folder: Path, tell: Tell, waiting: Waiting) -> Outcome:
    """Tell the story in `folder`, which keeps the databases, the email logs and the outputs.

    Raises:
        ChildError: A process failed.
    """
    with ExitStack() as stack:
        durable = stack.enter_context(_stage(folder, "durable", tell))
        plain = stack.enter_context(_stage(folder, "plain", tell))
        with waiting("4 processes import crewAI"):
            durable.prepare()
            # Not earlier: on two cores they would hold up the two that are needed first.
            plain.prepare()
        return Outcome(_with_us(durable, waiting), _without_us(plain, waiting))


def _with_us(stage: _Stage, waiting: Waiting) -> Figures:
    stage.tell(Event("part", "crewAI with crewai-dbos"))
    stage.until_killed("starts the agent")
    client = DBOSClient(system_database_url=database_url(stage.folder))
    try:
        before = _entries(client)
        stage.tell(Event("journal", f"the database has {_described(before)} of this run"))
        stage.restart("a new process: imports the module and calls DBOS.launch(), nothing else")
        with waiting("DBOS looks for unfinished runs"):
            stage.wait_for_a_request()
        result = _finished(client, stage.current)
        entries = _entries(client)
    finally:
        client.destroy()
    recorded = {(entry.step_id, entry.name) for entry in before}
    steps = [_step(entry, (entry.step_id, entry.name) in recorded) for entry in entries]
    return stage.figures(result, steps)


def _without_us(stage: _Stage, waiting: Waiting) -> Figures:
    stage.tell(Event("part", "crewAI alone, the same agent, killed at the same place"))
    with waiting("crewAI is being imported"):
        stage.current.wait_until_ready()
    stage.until_killed("starts the agent")
    with waiting("crewAI is being imported"):
        stage.restarted.wait_until_ready()
    stage.restart("a new process: nothing to go on from, so it starts the agent again")
    return stage.figures(json.loads(stage.current.read(_PATIENCE)), [])


class _Stage:
    """Two processes, one after the other, with their model server and email log."""

    def __init__(self, folder: Path, tell: Tell) -> None:
        self.folder = folder
        self.tell = tell
        self.sent = EffectLog(folder / "sent.jsonl")
        self.model = Model(_EMAILS_BEFORE_THE_KILL, self._on_request)
        self.server = ModelServer(self.model)
        self.children: list[Child] = []
        self._told = 0

    def prepare(self) -> None:
        name = self.folder.name
        env = {
            **self.server.env,
            "DEMO_SENT": str(self.sent.path),
            "DEMO_DATABASE_URL": database_url(self.folder),
        }
        roles = (name, f"{name}-restarted")
        self.children = [Child(role, self.folder, env) for role in roles]
