"""Asking a person: a request in the database, whose answer is an entry in the run's journal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import textwrap
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from crewai_dbos import _command_lines
from crewai_dbos._journal import notes
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.open_calls import open_call
from crewai_dbos._journal.scope import Scope
from crewai_dbos._people import policy, terminal
from crewai_dbos._people.shown import shown
from crewai_dbos._people.waiting import Wait, launched, watcher
from crewai_dbos._requests.request import Kind, OnDeadline, Question, Request, at
from crewai_dbos._requests.store import Asked, Outcome
from crewai_dbos._signals import ControlSignal
from crewai_dbos._stored import names, sealing
from crewai_dbos._threads import finished, on_a_thread
from crewai_dbos.errors import RequestExpired, RunStoppedError

logger = logging.getLogger("crewai_dbos")

T = TypeVar("T")

_RECORDED = "people.recorded"

_LONGEST = 300
"""Characters of a question in a line of the log."""


@dataclass(frozen=True)
class Said:
    """What came of a request.

    Attributes:
        name: The entry that it is the answer in.
        answer: As `answers.checked` has made it; None if nobody has answered in time.
        by: Who has answered.
        on_deadline: What was to become of it if nobody does.
    """

    name: str
    answer: dict[str, Any] | None
    by: str | None = None
    on_deadline: str | None = None

    @property
    def reply(self) -> str | None:
        """What was replied to a question for a text; None if nobody has in time."""
        return None if self.answer is None else str(self.answer["value"])


@dataclass(frozen=True)
class Asking:
    """A request that is about to be made.

    Attributes:
        kind: As of a `Request`.
        question: What is asked.
        seconds: For how long it can be answered; None for ever.
        on_deadline: What becomes of it then.
        audience: For whom it is.
        announce: Is called when it is new.
        about: What is asked of whatever has changed about the question since; by default the
            question itself.
        refusal: Makes of what came of it the error that stops the run, if that stops it. Resumed,
            it asks anew.
        begun: Is called with what gives the request up.
    """

    kind: Kind
    question: Question
    seconds: float | None
    on_deadline: OnDeadline
    audience: str | None
    announce: Callable[[], Any] | None = None
    about: Any = None
    refusal: Callable[[Said], RunStoppedError | None] | None = None
    begun: Callable[[Callable[[], None]], Any] | None = None

    @classmethod
    def by_policy(cls, kind: Kind, question: Question) -> Asking:
        """As the people of the definition say."""
        people = policy.current()
        return cls(kind, question, people.seconds, people.on_deadline, people.audience)


def ask(scope: Scope, call: Call, asking: Asking, read: Callable[[Said], T]) -> T:
    """What a person says, now or when it was recorded.

    Args:
        scope: The place that it is asked in.
        call: The entry that it becomes.
        asking: What is asked.
        read: Makes of the answer what is recorded.

    Raises:
        ControlSignal: The run is over, is left to its row, or can't ask.
        Exception: What `read` raises; it is recorded too.
    """
    waiter = _Waiter(scope, asking)
    try:
        return scope.run(call, lambda: read(waiter.wait()))
    finally:
        waiter.settle()


async def aask(scope: Scope, call: Call, asking: Asking, read: Callable[[Said], T]) -> T:
    """As `ask`, for async code. A request whose task is cancelled is withdrawn."""
    waiter = _Waiter(scope, asking)

    async def wait() -> T:
        waiting = asyncio.ensure_future(on_a_thread(waiter.wait))
        try:
            return read(await asyncio.shield(waiting))
        except asyncio.CancelledError:
            # A run that is over, or left to its row, is taken apart so: it still wants the answer.
            if scope.ended_by is None:
                waiter.give_up()
            with contextlib.suppress(BaseException):
                await waiting  # it ends now, and is at work as long
            raise

    try:
        return await scope.arun(call, wait)
    finally:
        await on_a_thread(waiter.settle)


class _ToldHere:
    """The requests that the log of this process tells of. Threads share it; the oldest go."""

    MOST = 4096

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: dict[str, None] = {}

    def is_news(self, request_id: str) -> bool:
        """Whether it is told of for the first time; from now on it is not."""
        with self._lock:
            if request_id in self._ids:
                return False
            self._ids[request_id] = None
            if len(self._ids) > self.MOST:
                del self._ids[next(iter(self._ids))]
        return True


_told_here = _ToldHere()


@dataclass
class _Waiter:
    """Asks in one place of a run, and waits there."""

    scope: Scope
    asking: Asking
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _given_up: bool = False
    _waiting: Wait | None = None
    _said: Said | None = None

    def wait(self) -> Said:
        """What a person says, in the body of the call that it is recorded as.

        Raises:
            ControlSignal: The run is over, or could not ask: that is no answer.
        """
        try:
            opened = open_call()
            assert opened is not None
            question = self.asking.question.shown_through(lambda data: shown(self.scope, data))
            outcome = self._asked(opened.name, question)
            while outcome is not None and outcome.is_withdrawn:
                # Nobody has said anything. Perhaps the run is another execution's, which asks.
                self.scope.journal.execution.check(surely=True)
                outcome = self._asked(opened.name, question)
        except Exception as error:
            self._fail(error)
        if outcome is None:
            self.scope.raise_if_over()
            raise asyncio.CancelledError
        self._said = self._read(outcome, opened.name)
        return self._said

    def give_up(self) -> None:
        """Nobody waits any more, also if the request is only being made."""
        with self._lock:
            self._given_up, waiting = True, self._waiting
        if waiting is not None:
            waiting.settle(None)

    def settle(self) -> None:
        """The call has ended: what is recorded of it is not used for another question."""
        if self.scope.ended_by is not None:
            return
        if self._said is not None:
            self._settle_here(self._said)
        else:
            self._settle_recorded()

    def _settle_here(self, said: Said) -> None:
        """The answer that has come here is recorded."""
        redacts = bool(self.scope.journal.writer.redact) and said.answer is not None
        self._used([said.name], sealing.seal(shown(self.scope, said.answer)) if redacts else None)

    def _settle_recorded(self) -> None:
        """So are those, once an execution, that another process may have left when it died."""
        journal = self.scope.journal
        if _RECORDED in journal.kept:
            return
        journal.kept[_RECORDED] = True
        entries = journal.record.entries_below("")
        if asked := [entry.name for _, entry in entries if entry.kind == "person"]:
            self._used(asked)

    def _used(self, asked: list[str], answer: Any = None) -> None:
        run_id = self.scope.run_id
        launched().patiently(lambda store: store.used(run_id, asked, answer))

    def _asked(self, name: str, question: dict[str, Any]) -> Outcome | None:
        """How the request ends; None if nobody waits for it any more."""
        asked = self._ask(name, question)
        if self.asking.begun is not None:
            self.asking.begun(self.give_up)
        return self._outcome(asked, self._request(asked, name, question))

    def _ask(self, name: str, question: dict[str, Any]) -> Asked:
        asking = self.asking
        # A deadline is none of what is asked.
        about = question if asking.about is None else asking.about
        content = names.by_content(asking.kind, about)
        digest = self.scope.journal.record.stored_name(content)
        stored = sealing.seal(question)
        return launched().patiently(
            lambda store: store.ask(
                self.scope.run_id,
                name,
                asking.kind,
                stored,
                digest=digest,
                seconds=asking.seconds,
                on_deadline=asking.on_deadline,
                audience=asking.audience,
            )
        )

    def _outcome(self, asked: Asked, request: Request) -> Outcome | None:
        """How the request ends; None if nobody waits for it any more."""
        if not asked.notify:  # it was asked before, and may have been answered since
            ended = launched().patiently(lambda store: store.ended({asked.request_id}))
            if asked.request_id in ended:
                return ended[asked.request_id]
        wait = Wait(self.scope.journal, asked.request_id, policy.current().linger)
        with self._lock:
            self._waiting = None if self._given_up else wait
        if self._waiting is not None:
            watcher.add(wait)
            try:
                self._tell(asked, request)
                terminal.offer(request, wait)
                with self.scope.journal.activity.waiting():
                    outcome = wait.outcome.result()
            finally:
                watcher.remove(wait)
            if outcome is not None:
                return outcome
        if self._given_up:
            owner_xid = self.scope.journal.execution.owner_xid
            launched().patiently(lambda store: store.withdraw(asked.request_id, owner_xid))
        return None

    def _request(self, asked: Asked, name: str, question: dict[str, Any]) -> Request:
        return Request(
            asked.request_id,
            self.scope.run_id,
            name,
            self.asking.kind,
            "open",
            Question.of_json(question),
            audience=self.asking.audience,
            on_deadline=self.asking.on_deadline,
            created=at(asked.created_ms),
            deadline=at(asked.deadline_ms),
        )

    def _tell(self, asked: Asked, request: Request) -> None:
        notify = policy.current().notify
        run_id, request_id = self.scope.run_id, asked.request_id
        is_news = _told_here.is_news(request_id)
        if not (asked.notify or is_news):
            return
        # A program that waits must not look like one that hangs; a terminal shows the prompt.
        level = logging.INFO if terminal.is_there() else logging.WARNING
        message = textwrap.shorten(request.question.message, _LONGEST)
        logger.log(
            level,
            "Run %s %s for a person: %s Answer with: %s (request %s)",
            run_id,
            "waits" if asked.notify else "still waits",
            "its question is encrypted." if sealing.is_wanted() else message,
            _command_lines.INBOX,
            request_id[:8],
        )
        if not asked.notify:
            return  # a process before this one has told whoever else is to be told
        if self.asking.announce is not None:
            self.asking.announce()
        if notify is not None:
            try:
                finished(notify(request))
            except Exception:
                logger.warning(
                    "notify failed for request %s, which is open all the same",
                    request_id,
                    exc_info=True,
                )
        launched().patiently(lambda store: store.told(request_id))

    def _read(self, outcome: Outcome, name: str) -> Said:
        told = {"by": outcome.by} if outcome.answer is not None else {"expired": True}
        self.scope.journal.listeners.note(name, **told)
        if outcome.answer is not None:
            try:
                said = Said(name, sealing.opened(outcome.answer), outcome.by)
            except Exception as error:
                self._fail(error)
        elif outcome.on_deadline == "fail":
            self._expire(name)
        else:
            said = Said(name, None, on_deadline=outcome.on_deadline)
        refused = None if self.asking.refusal is None else self.asking.refusal(said)
        if refused is not None:
            self._used([name])
            stop(self.scope, refused)
        return said

    def _fail(self, error: Exception) -> NoReturn:
        """Stop the run, which could not ask: as an answer that would be recorded."""
        run_id = self.scope.run_id
        stop(
            self.scope,
            RunStoppedError(
                f"Run {run_id!r} could not ask a person ({type(error).__name__}: {error}). Put "
                f"that right, then {_command_lines.resume(run_id)}."
            ),
            error,
        )

    def _expire(self, name: str) -> NoReturn:
        """Stop the run; resumed, it asks anew."""
        run_id = self.scope.run_id
        self._used([name])
        stop(
            self.scope,
            RequestExpired(
                f"Nobody has answered in time what run {run_id!r} asked: "
                f"{self.asking.question.message!r} ({name}). {_command_lines.resume(run_id)} asks "
                "anew."
            ),
        )


def stop(scope: Scope, stopped: RunStoppedError, cause: Exception | None = None) -> NoReturn:
    """Stop the run of `scope`; it can be resumed."""
    owner_xid = scope.journal.execution.owner_xid
    notes.stop(scope.run_id, owner_xid, stopped, scope.journal.writer.redact)
    try:
        scope.fail(stopped)
    except ControlSignal as signal:
        raise signal from cause or stopped
