"""A run as people see it, and what is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, overload

from crewai_dbos._stored.usage import Tokens

State = Literal[
    "queued",
    "running",
    "interrupted",
    "waiting",
    "waking",
    "done",
    "failed",
    "cancelled",
    "stopped",
    "stranded",
]
"""Of a run:

- ``queued``: on a queue, and not begun
- ``running``: a process carries it out, as far as the database says; `reason` says where nobody
  sees whether that lives
- ``interrupted``: its worker is gone, and another is about to go on with it
- ``waiting``: for a person; `reason` says for whom and since when
- ``waking``: answered, and on its queue again
- ``done``, ``failed``: it has ended, with a result or an error
- ``cancelled``: somebody has asked for it, or its time was up; `reason` says who and why
- ``stopped``: it does not fit the code, or can't be read; `reason` says what to do
- ``stranded``: nobody goes on with it, and `reason` says why
"""


@dataclass(frozen=True)
class Node:
    """Something that a run has done, or does: a task, an agent, a method, a call.

    Attributes:
        path: Its name in the journal, which says where in the run it is.
        name: The last part of it, for people: ``task:2.write``, ``tool:send_email``.
        kind: ``crew``, ``task``, ``agent``, ``flow``, ``method``, ``llm``, ``tool``, ...
        state: As of a run.
        started: When it began, in UTC; None where that is not known, and of what was taken over.
        seconds: How long it took; of something with others inside from the first's begin to the
            last's end, less what was taken over.
        tokens: Of all LLM requests in it.
        replayed: Whether the execution that went on last has it from the record.
        error: The class and message of the error that it ended with.
        attempts: How often it was made, with retries.
        edited_by, edited: Who has put its result in place of the recorded one, in a fork; when.
        taken_over: Whether a fork has it from the run that it was made of, with all that is inside.
        children: What is inside, in the order in which it began.

    Example::

        def failed(nodes):
            return [n for node in nodes for n in (node, *failed(node.children)) if n.error]

        for node in failed(control.run(run_id).children):
            print(node.path, node.error)
    """

    path: str
    name: str
    kind: str
    state: State
    started: datetime | None = None
    seconds: float | None = None
    tokens: Tokens = field(default_factory=Tokens)
    replayed: bool = False
    error: str | None = None
    attempts: int = 1
    edited_by: str | None = None
    edited: datetime | None = None
    children: tuple[Node, ...] = ()
    taken_over: bool = False


def error_of_its_own(node: Node, is_shown: Callable[[Node], bool] = lambda _: True) -> str | None:
    """The error that a node ended with, if it is not told at a node inside that is shown."""
    return None if _is_told(node.error, node.children, is_shown) else node.error


def _is_told(error: str | None, nodes: Sequence[Node], is_shown: Callable[[Node], bool]) -> bool:
    shown = filter(is_shown, nodes if error is not None else ())
    return any(n.error == error or _is_told(error, n.children, is_shown) for n in shown)


@dataclass(frozen=True)
class Fork:
    """A fork of a run.

    Attributes:
        run_id: Its id.
        state: How it stands.

    Example::

        for fork in control.run(run_id).forks:
            print(fork.run_id, fork.state)
    """

    run_id: str
    state: State


@dataclass(frozen=True)
class Run:
    """A run of a definition.

    Attributes:
        run_id: The DBOS workflow id.
        definition: The name of the `DBOSAgent`, `DBOSCrew` or `DBOSFlow`; None of a workflow of
            the user's own.
        kind: ``agent``, ``crew``, ``flow``, ``batch`` or ``workflow``.
        state: How it stands.
        created: When it was asked for, in UTC.
        started: When a process last began or went on with it.
        seconds: From its creation to its end, or to now.
        queued: How many of these it was on a queue before a process first took it, as far as the
            rows say; from `Control.run` only.
        tokens: Of the LLM requests in its journal; from `Control.run` also of those of the runs and
            items that it has started.
        cost: In US dollars, where prices are known; None where not.
        error: The class and message of the error that it ended with.
        reason: Why it is as it is, where the state alone does not say it.
        parent: The id of the run or workflow that has started it.
        forked_from: The id of the run that it is a fork of.
        version: The application version whose processes take it; None if any does.
        executor: The process that carries it out, or did.
        in_calls: In how many of `seconds` one of its calls at least was being made, as far as they
            are recorded: without queues, waits for people, and the time after a process had died;
            from `Control.run` only.
        children: What it has done; empty in a list of runs.
        taken_over: Of `tokens`, those that a fork has from the run that it was made of, which has
            paid for them.
        taken_over_cost: The same of `cost`.
        queue: The DBOS queue that it is taken from; None of none, and of DBOS's own.
        taken_from: The worker that it was under when that was gone, and others took it over the
            last time: its `executor_id`.
        taken_at: When that was, in UTC.
        forks: The forks that were made of it, the oldest first; from `Control.run` only.

    Example::

        run = control.run(run_id)
        print(run.definition, run.state, run.reason, run.seconds, run.tokens.total)
    """

    run_id: str
    definition: str | None
    kind: str
    state: State
    created: datetime
    started: datetime | None = None
    seconds: float | None = None
    tokens: Tokens = field(default_factory=Tokens)
    cost: float | None = None
    error: str | None = None
    reason: str | None = None
    parent: str | None = None
    forked_from: str | None = None
    version: str | None = None
    executor: str | None = None
    children: tuple[Node, ...] = ()
    queued: float | None = None
    in_calls: float | None = None
    taken_over: Tokens = field(default_factory=Tokens)
    taken_over_cost: float | None = 0.0
    queue: str | None = None
    taken_from: str | None = None
    taken_at: datetime | None = None
    forks: tuple[Fork, ...] = ()

    @property
    def begun(self) -> datetime | None:
        """When a process first took it, in UTC, as far as the rows say; from `Control.run` only."""
        if self.queued is None:
            return self.started
        if self.started is None and all(child.taken_over for child in self.children):
            return None
        return self.created + timedelta(seconds=self.queued)

    @property
    def new_tokens(self) -> int:
        """The tokens that it has used itself: of a fork without those that were taken over."""
        return self.tokens.total - self.taken_over.total

    @property
    def new_cost(self) -> float | None:
        """The same in US dollars; None where a price is not known."""
        if self.cost is None or self.taken_over_cost is None:
            return None
        return max(0.0, round(self.cost - self.taken_over_cost, 9))


@dataclass(frozen=True)
class Page(Sequence[Run]):
    """Some of the runs that fit, the newest first.

    Attributes:
        runs: These.
        cursor: Where the next page begins; None if this was the last.

    Example::

        page = control.runs(limit=20)
        while page.cursor is not None:
            page = control.runs(limit=20, cursor=page.cursor)
    """

    runs: tuple[Run, ...]
    cursor: str | None = None

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    @overload
    def __getitem__(self, index: int) -> Run: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Run, ...]: ...

    def __getitem__(self, index: int | slice) -> Run | tuple[Run, ...]:
        return self.runs[index]
