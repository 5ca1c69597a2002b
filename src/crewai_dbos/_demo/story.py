"""The crash, twice: killed at the same place with and without crewai-dbos, and counted."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from dbos import DBOSClient

from crewai_dbos._dbos_seam.rows import recorded_rows
from crewai_dbos._demo.child import RUN_ID
from crewai_dbos._demo.model import Model
from crewai_dbos._demo.process import Child, ChildError
from crewai_dbos._journal.entry import Entry, read_entry
from crewai_dbos.testing import EffectLog, Message, ModelServer, Request

_EMAILS_BEFORE_THE_KILL = 2
_PATIENCE = 60.0


@dataclass(frozen=True)
class Event:
    """Something that happened just now, for a person who watches.

    Attributes:
        kind: ``part``, ``start``, ``llm``, ``email``, ``again``, ``kill``, ``journal`` or
            ``end``.
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
    """What one way of running the agent came to, counted outside the processes that ran it.

    Attributes:
        llm_calls: Requests that reached the model server.
        llm_calls_cut_off: Those of them that the kill left without an answer.
        emails: The addressees in order, from the log that the tool appends to.
        replayed_llm_calls: Recorded before the kill, read back after it.
        tokens: Of the answered requests, as the server counted them.
        tokens_saved: Of the replayed requests, as the journal has them.
        steps: The journal.
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
    steps: list[Step]


@dataclass(frozen=True)
class Outcome:
    durable: Figures
    plain: Figures


def database_path(folder: Path) -> Path:
    """Where the durable part of a story told in `folder` keeps its runs."""
    return folder / "durable" / "dbos.sqlite"


def database_url(folder: Path) -> str:
    """The same, as DBOS takes it."""
    return f"sqlite:///{database_path(folder)}"


def run(folder: Path, tell: Tell, waiting: Waiting) -> Outcome:
    """Tell the story in `folder`, where the database, the email logs and the outputs stay.

    Raises:
        ChildError: A process did not do its part.
    """
    with ExitStack() as stack:
        durable = stack.enter_context(_Stage("durable", folder, tell, waiting))
        plain = stack.enter_context(_Stage("plain", folder, tell, waiting))
        durable.prepare()
        durable.wait_until_ready()
        # Not before: importing takes all cores, and these two are not needed yet.
        plain.prepare()
        return Outcome(durable=_with_us(durable, folder), plain=_without_us(plain))


def _with_us(stage: _Stage, folder: Path) -> Figures:
    stage.tell(Event("part", "crewAI with crewai-dbos"))
    stage.run_until_killed()
    client = DBOSClient(system_database_url=database_url(folder))
    try:
        recorded = _entries(client)
        stage.tell(Event("journal", f"in the database: {_described(recorded)}"))
        stage.restart("a new process: it imports the agent and calls DBOS.launch()")
        result = stage.until_finished(client)
        entries = _entries(client)
    finally:
        client.destroy()
    before = {(entry.step_id, entry.name) for entry in recorded}
    return stage.figures(
        result, [_step(entry, (entry.step_id, entry.name) in before) for entry in entries]
    )


def _without_us(stage: _Stage) -> Figures:
    stage.tell(Event("part", "crewAI alone: the same agent, killed at the same place"))
    stage.run_until_killed()
    stage.restart("a new process: it starts the agent from the beginning")
    result = json.loads(stage.process.read(_PATIENCE))
    return stage.figures(result, [])


class _Stage:
    """Two processes, one after the other, with their model server and their email log."""

    def __init__(self, name: str, folder: Path, tell: Tell, waiting: Waiting) -> None:
        self.tell = tell
        self._name = name
        self._waiting = waiting
        self._folder = folder / name
        self._folder.mkdir(mode=0o700)
        self._env = {
            "DEMO_SENT": str(self._folder / "sent.jsonl"),
            "DEMO_DATABASE_URL": database_url(folder),
        }
        self._sent = EffectLog(self._env["DEMO_SENT"])
        self._told_emails = 0
        self._model = Model(_EMAILS_BEFORE_THE_KILL, self._on_request)
        self._server = ModelServer(self._model)
        self._children: list[Child] = []
        self._started = 0

    def __enter__(self) -> _Stage:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.close()
        self._server.stop()

    @property
    def process(self) -> Child:
        """The process that is on stage, or about to be."""
        return self._children[max(self._started - 1, 0)]

    def prepare(self) -> None:
        """Have both processes import crewAI, which takes seconds."""
        env = {**self._server.env, **self._env}
        self._children = [
            Child(role, self._folder, env) for role in (self._name, f"{self._name}-restarted")
        ]

    def wait_until_ready(self) -> None:
        with self._waiting("importing crewAI"):
            self._children[self._started].wait_until_ready()

    def run_until_killed(self) -> None:
        """Run the first process until the model is asked for the call that is never answered."""
        self._start("starts the agent")
        held = self._model.held
        deadline = time.monotonic() + _PATIENCE
        while not held.is_set():
            self.process.check(deadline)
            held.wait(0.05)
        self.process.kill()
        self.tell(Event("kill", f"kill -9 {self.process.pid}"))

    def restart(self, how: str) -> None:
        self._start(how)

    def until_finished(self, client: DBOSClient) -> str:
        """Wait for the durable run to end in whatever process, and return its result."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            status = client.retrieve_workflow(RUN_ID).get_status()
            if status.status not in ("PENDING", "ENQUEUED"):
                break
            self.process.check(deadline)
            time.sleep(0.05)
        if status.status != "SUCCESS":
            raise ChildError(f"The run ended as {status.status}: {status.error}")
        return str(status.output)

    def figures(self, result: str, steps: list[Step]) -> Figures:
        self._tell_emails()
        self.tell(Event("end", result, self.process.pid))
        emails = [str(effect.fields["to"]) for effect in self._sent.read()]
        replayed = [step for step in steps if step.replayed]
        return Figures(
            processes=self._started,
            llm_calls=len(self._server.requests),
            llm_calls_cut_off=len(self._server.requests) - self._model.answered,
            emails=emails,
            emails_sent_twice=[to for to, count in Counter(emails).items() if count > 1],
            replayed_llm_calls=sum(step.kind == "llm" for step in replayed),
            replayed_tool_calls=sum(step.kind == "tool" for step in replayed),
            tokens=self._model.tokens,
            tokens_saved=sum(step.tokens for step in replayed),
            result=result,
            steps=steps,
        )

    def _start(self, how: str) -> None:
        if not self._children[self._started].is_ready:
            self.wait_until_ready()
        self._started += 1
        self.tell(Event("start", how, self.process.pid))
        self.process.start()

    def _on_request(self, request: Request, reply: Message | None) -> None:
        # An email was sent before the model was asked what comes next.
        self._tell_emails()
        if reply is None:
            said = "the model is thinking ..."
        elif reply.calls:
            said = f"the model asks for {reply.calls[0].name}"
        else:
            said = "the model sums up"
        self.tell(Event("llm", f"LLM call {request.number}: {said}", self.process.pid))

    def _tell_emails(self) -> None:
        emails = self._sent.read()
        for at in range(self._told_emails, len(emails)):
            to = emails[at].fields["to"]
            again = any(earlier.fields["to"] == to for earlier in emails[:at])
            text = f"email to {to}{', again' if again else ''}"
            self.tell(Event("again" if again else "email", text, emails[at].pid))
        self._told_emails = len(emails)


def _entries(client: DBOSClient) -> list[Entry]:
    rows = recorded_rows(RUN_ID, client)
    return [entry for entry in map(read_entry, rows) if entry is not None]


def _described(entries: list[Entry]) -> str:
    kinds = Counter(entry.kind for entry in entries)
    return f"{kinds['llm']} LLM calls and {kinds['tool']} tool calls"


def _step(entry: Entry, replayed: bool) -> Step:
    usage = entry.payload().get("extra", {}).get("usage", [])
    tokens = sum(int(used["total_tokens"]) for used in usage)
    return Step(entry.step_id, entry.name, entry.kind, tokens, replayed)
