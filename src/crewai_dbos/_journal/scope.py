"""A place in a run that calls are made in, carried by a context variable into threads and tasks.

A `Scope` is one sequential branch of the work, or, when it says so, a place where things happen at
the same time. It also is the position that DBOS sees there: see `pinning`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Context
from typing import Any, NoReturn, TypeVar
from uuid import UUID

from crewai_dbos._dbos_seam.context import using_context
from crewai_dbos._journal import background
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.drift import Onward
from crewai_dbos._journal.endings import End
from crewai_dbos._journal.entry import Entry
from crewai_dbos._journal.journal import Journal
from crewai_dbos._journal.listening import Happening
from crewai_dbos._journal.open_calls import OpenCall, inside_group, is_open_call_of_this_thread
from crewai_dbos._journal.pinning import PinningContext, Pins
from crewai_dbos._journal.place import Place
from crewai_dbos._leases import RunVar, held
from crewai_dbos._secrets.given import Given
from crewai_dbos._setting import setting
from crewai_dbos._stored.redaction import Redact
from crewai_dbos._threads import ThreadOrTask
from crewai_dbos.errors import ConcurrentRunError

T = TypeVar("T")


class Scope:
    """One place in a run, which its calls are asked of.

    Args:
        journal: The run's journal.
        path: Where, "" for the run itself.
        sequential: As of a `Place`.
        around: The scope that a tool call belongs to whose hooks and events are here.
        runs_on: As of a `Place`.
    """

    def __init__(
        self,
        journal: Journal,
        path: str,
        *,
        sequential: bool = True,
        around: Scope | None = None,
        runs_on: ThreadOrTask | None = None,
    ) -> None:
        self.journal = journal
        self.place = Place(path, sequential, runs_on)
        self.around = around
        self._position = PinningContext.of(
            journal.root, Pins(self._draw, journal.check_pinned, journal.fail)
        )

    @property
    def path(self) -> str:
        return self.place.path

    @property
    def run_id(self) -> str:
        return self.journal.run_id

    def runs_on(self, thread_or_task: ThreadOrTask) -> None:
        """From here on calls are made one after the other on `thread_or_task` alone."""
        self.place.runs_on = thread_or_task

    @property
    def kept(self) -> dict[str, Any]:
        """What callers keep for as long as the run is executed."""
        return self.journal.kept

    def child(
        self,
        what: str,
        *,
        sequential: bool = True,
        around: Scope | None = None,
        runs_on: ThreadOrTask | None = None,
    ) -> Scope:
        """The next `what` inside this scope, as a scope of its own."""
        path = self.journal.record.next_path(self.path, what)
        return Scope(self.journal, path, sequential=sequential, around=around, runs_on=runs_on)

    @contextmanager
    def entered(self) -> Iterator[Scope]:
        """In the block, calls are made here, and DBOS operations too."""
        with setting(_scope, self), using_context(self._position):
            yield self

    @contextmanager
    def work(self, kind: str) -> Iterator[Scope]:
        """As `entered`, for a block that is all that happens here, which listeners are told of.

        Args:
            kind: What it is: ``task``, ``agent``, ``method``.
        """
        with self.journal.listeners.told(Happening(self.path, kind)), self.entered():
            yield self

    def is_replayed(self) -> None:
        """The work here is answered from the record after all."""
        self.journal.listeners.replays(self.path)

    def _draw(self, ids: int) -> int:
        if not self.place.is_alone_here():
            self.fail(
                ConcurrentRunError(
                    f"Run {self.run_id}: {self.path} made a DBOS operation on another thread or "
                    "in another asyncio task than its own, where only their order would tell it "
                    "apart after a crash. Make it on its own thread, one after the other; or with "
                    "crewai_dbos.step(function, ...), which goes by the arguments; or in a DBOS "
                    "workflow of its own. If an ordinary agent or crew makes it, which is called "
                    "here (crewAI gives it threads of its own): make that a DBOSAgent or a "
                    "DBOSCrew, whose calls are told apart."
                )
            )
        return self.journal.pin(self.place, ids)

    # Calls -------------------------------------------------------------------

    def run(self, call: Call, function: Callable[[], T]) -> T:
        """The result of `call`: the recorded one, or that of `function`, which is then recorded.

        Args:
            call: What is called.
            function: Makes the call. A coroutine function runs on DBOS's event loop, if that is
                free.

        Returns:
            A decoded copy of the result.

        Raises:
            Exception: The call's own error, rebuilt from the record.
            ControlSignal: The run is over for another reason.
        """
        return self.journal.run(self.place, self._disambiguated(call), function)

    async def arun(self, call: Call, function: Callable[[], Awaitable[T]]) -> T:
        """As `run`, for async code."""
        return await self.journal.arun(self.place, self._disambiguated(call), function)

    def group(self, call: Call, function: Callable[[], T], *, sequential: bool = False) -> T:
        """As `run`, for a call with recorded calls inside: these come first, then its own result.

        Args:
            call: What is called.
            function: Makes the calls inside, in a scope named like this call.
            sequential: Whether the calls inside follow one another.
        """

        def inside(opened: OpenCall) -> T:
            with self._inside(opened, sequential) as left:
                try:
                    return function()
                finally:
                    left.wait()

        return self.journal.group(self.place, self._disambiguated(call), inside)

    async def agroup(
        self, call: Call, function: Callable[[], Awaitable[T]], *, sequential: bool = False
    ) -> T:
        """As `group`, for async code."""

        async def inside(opened: OpenCall) -> T:
            with self._inside(opened, sequential) as left:
                try:
                    return await function()
                finally:
                    await left.await_end()

        return await self.journal.agroup(self.place, self._disambiguated(call), inside)

    @contextmanager
    def _inside(self, opened: OpenCall, sequential: bool) -> Iterator[background.Background]:
        """In the block calls are made inside `opened`. Yields what goes on in the background."""
        here = Scope(self.journal, opened.name, sequential=sequential, runs_on=ThreadOrTask.here())
        with here.entered(), inside_group(opened), background.collecting() as left:
            yield left

    def _disambiguated(self, call: Call) -> Call:
        """`call`, named by its content where it may come beside others."""
        is_told_apart = call.concurrent or self.place.is_in_sequence_here()
        return call if is_told_apart else call.by_content()

    def is_recorded(self, what: str) -> bool:
        """Whether the next `what` here, in sequence, will be answered from the record."""
        return self.journal.record.is_recorded(self.place, what)

    def entries(self) -> list[tuple[str, Entry]]:
        """The recorded entries below, each with its name relative to this scope."""
        return self.journal.record.entries_below(self.path)

    def stored_of(self, entry: Entry) -> Any:
        """The JSON data of the row of an entry, sealed or not, or None."""
        return self.journal.replay.stored_of(entry)

    def extra_of(self, entry: Entry) -> dict[str, Any]:
        """What an entry keeps beside its result, as JSON."""
        return self.journal.replay.extra_of(entry)

    def usage_of(self, entry: Entry) -> Sequence[Mapping[str, Any]]:
        """What LLMs have told in an entry of how many tokens a request took."""
        return self.journal.replay.usage_of(entry)

    def onward(self, *places: str) -> Onward:
        """The fork that the code of now can finish, as it fits all but these; see `Record`.

        Args:
            places: Names of entries or places, each relative to this scope; "" is all of it.
        """
        whole = (f"{self.path}/{place}" if place else self.path for place in places)
        return self.journal.record.onward(*whole)

    def followers(self) -> tuple[list[str], Onward] | None:
        """What came after the work here, and may have its result; see `Record.followers`."""
        return self.journal.record.followers(self.path)

    def lock(self, key: str) -> threading.Lock:
        """The lock of this scope called `key`."""
        return self.journal.record.lock(f"{self.path}/{key}")

    def beside(self, path: str, what: str) -> Scope:
        """The next `what` under another `path` of the same run."""
        return Scope(self.journal, self.journal.record.next_path(path, what))

    # What is stored ------------------------------------------------------------

    def look_for_secrets(self, *objects: Any) -> None:
        """Keep what is secret in `objects` out of what is stored when something here fails."""
        self.journal.secrets.look_at(*objects)

    def keep_back(self, secrets: Given, redact: Redact | None) -> None:
        """Store from now on only what a definition lets through; see `Journal.keep_back`."""
        self.journal.keep_back(secrets, redact)

    def restore_usage(self, role: str, restore: Callable[[Any], int | None]) -> None:
        """Have `restore` told of the usage of an LLM's requests here that are not replayed."""
        self.journal.replay.llms[self.path, role] = restore

    # The end -------------------------------------------------------------------

    def fail(self, error: BaseException) -> NoReturn:
        """End the run with `error`, past everything that catches `Exception`."""
        self.journal.fail(error)

    def raise_if_over(self) -> None:
        """Raise again what has ended the run."""
        self.journal.latch.raise_if_over()

    @property
    def ended_by(self) -> BaseException | None:
        """What has ended the run, other than its workflow's return."""
        return self.journal.latch.error

    def warn_of_drift(self, message: str) -> None:
        """Say, once in a run, that the code has changed since it began."""
        self.journal.replay.warn_of_drift(message)

    def check_complete(self, *, background: bool = True) -> None:
        """The work here has returned: stop the run if a recorded call of it was not asked for."""
        self.journal.check_complete(self.path, background=background)

    def pass_over(self) -> None:
        """What is recorded here and was not asked for will not be."""
        self.journal.replay.pass_over(self.path)

    def record_failure(self, error: Exception) -> NoReturn:
        """Record that the work here ended with `error`, and raise the recorded copy."""
        self.journal.endings.record_failure(self.place, error)

    def replay_failure(self) -> None:
        """Raise the error that the work here is recorded to have ended with, if it has."""
        self.journal.endings.replay_failure(self.place)

    def abandon(self, seconds: float) -> None:
        """Mark the work here, whose asyncio task was cancelled after `seconds`, as abandoned."""
        self.journal.endings.abandon(self.path, seconds)

    async def unless_abandoned(self) -> None:
        """Wait to be cancelled if the work here was abandoned; see `Endings.unless_abandoned`."""
        await self.journal.endings.unless_abandoned(self.path)

    def replay_end(self, call: Call) -> Any:
        """The recorded end `call` of the work here, without doing what is left of it."""
        return self.journal.endings.replay_end(self.place, call)

    async def record_end(
        self,
        call: Call,
        get: Callable[[], Any],
        seconds: float,
        *,
        expect: Callable[[int], None],
        observe: Callable[[], None] = lambda: None,
    ) -> End:
        """Record how the work here ended; see `Endings.record_end`."""
        return await self.journal.endings.record_end(
            self.place, call, get, seconds, expect=expect, observe=observe
        )


def stable_id(scope: Scope, what: str) -> UUID:
    """A random-looking id that is the same whenever the run of `scope` is resumed."""
    name = f"{scope.run_id}\0{scope.path}\0{what}"
    return UUID(bytes=hashlib.sha256(name.encode()).digest()[:16], version=4)


_scope: RunVar[Scope | None] = RunVar("crewai_dbos_scope", default=None)


def last_entered() -> Scope | None:
    """The scope entered last; inside a recorded call, the scope of that call.

    Code that DBOS runs in another workflow since then is not in it: see `run_scope`.
    """
    return _scope.get()


def lent_context() -> Context | None:
    """The context in which this thread makes a call for another; None where it is in it already."""
    lease = held()
    if lease is None or not lease.worker or _scope.is_set_here() or is_open_call_of_this_thread():
        return None
    context = lease.context
    return None if context is None else context.copy()
