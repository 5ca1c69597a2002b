"""Joined work: the agents, crews and flows that a user's workflow calls while it is open.

Each finds its own record by a digest of its work order, has an end after which nothing is recorded
in it, and may have been abandoned by its caller.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from crewai_dbos._journal.entry import Entry, split_name
from crewai_dbos._signals import ControlSignal
from crewai_dbos._stored import names
from crewai_dbos._threads import in_event_loop
from crewai_dbos.errors import ConcurrentRunError, LostContextError

logger = logging.getLogger("crewai_dbos")


class JoinedWork:
    """What has joined one execution of a workflow. Threads share it, under its lock."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._lock = threading.RLock()
        self._counts: dict[tuple[str, str], int] = defaultdict(int)
        self._orders: dict[tuple[str, str], dict[int, Entry]] = defaultdict(dict)
        self._names: set[str] = set()
        self._open: dict[str, tuple[str, str | None]] = {}
        self._ended: set[str] = set()
        self._abandoned: dict[str, Entry] = {}
        self._anew: dict[str, tuple[str, str]] = {}

    def load(self, entry: Entry) -> None:
        """Take note of a recorded entry, before any thread shares this."""
        if entry.what == names.ABANDONED:
            self._abandoned[entry.path] = entry
        if entry.what == names.WORK_ORDER and (found := split_name(entry.path)):
            path, what, occurrence = found
            self._orders[path, what][occurrence] = entry

    @property
    def is_any_open(self) -> bool:
        with self._lock:
            return bool(self._open)

    def next_name(self, path: str, what: str, work_order: str, *, in_sequence: bool) -> str:
        """The name of the next `what` under `path`.

        Work that was started side by side finds its own record by its work order, whichever comes
        first. If its order has changed it is known by its number, where numbers can be relied on.

        Args:
            path: Where it joins.
            what: Its name there, without a number.
            work_order: A digest of its work order.
            in_sequence: Whether what joins under `path` does so one after the other.
        """
        with self._lock:
            recorded = self._orders[path, what]
            equal = [n for n, entry in recorded.items() if entry.carries_out(work_order)]
            number = min(equal, default=0)
            if not number:
                number = self._counts[path, what] + 1
                while number in recorded and not in_sequence:
                    number += 1
                while names.numbered(path, what, number) in self._names:
                    number += 1
                self._counts[path, what] = number
            name = names.numbered(path, what, number)
            if recorded and number not in recorded:
                self._anew[name] = (path, what)
            recorded.pop(number, None)
            self._names.add(name)
            return name

    def enter(self, path: str, work_order: str | None) -> None:
        """The work `path` begins.

        Args:
            path: Its name.
            work_order: A digest of its work order; None if the workflow was opened for it.

        Raises:
            ControlSignal: An equal order is being carried out, so that only the order of threads
                would tell the two apart.
        """
        what = path.rpartition("#")[0]
        with self._lock:
            equal = work_order is not None and (what, work_order) in self._open.values()
            if equal and not in_event_loop():
                error = ConcurrentRunError(
                    f"Run {self._run_id}: {what} was asked for the same twice at the same time, on "
                    "two threads. After a crash nothing tells the answers apart. Ask one after the "
                    "other, or with asyncio.gather, or put what differs into the text."
                )
                raise ControlSignal(error)
            self._open[path] = (what, work_order)

    def leave(self, path: str) -> None:
        """The work `path` has been left."""
        with self._lock:
            self._open.pop(path, None)
            self._check_not_again(path)

    def end(self, path: str) -> None:
        """The call or work `path` has failed or was abandoned: nothing more is recorded in it."""
        with self._lock:
            self._ended.add(path)

    def check_open(self, path: str) -> None:
        """Refuse a call of a thread that was left behind.

        Raises:
            ControlSignal: What `path` is in has ended.
        """
        with self._lock:
            ended = next((above for above in _and_above(path) if above in self._ended), None)
        if ended is not None:
            # Not the end of the run: only the thread that was left behind hears of it.
            raise ControlSignal(
                LostContextError(
                    f"Run {self._run_id}: {ended} has ended, but a thread of it still makes "
                    "calls. They are not made."
                )
            )

    # Whether the caller of an abandoned call went on without it is not recorded. What follows its
    # mark tells it from a program that was stopped by cancelling its tasks:
    #
    # | recorded after the mark                              | the caller | on recovery           |
    # |------------------------------------------------------|------------|-----------------------|
    # | nothing                                              | stopped    | the work goes on      |
    # | other marks only: everything was cancelled           | stopped    | the work goes on      |
    # | something inside the abandoned work: it was resumed  | stopped    | the work goes on      |
    # | calls of branches that had begun before the mark     | unknown    | the work goes on      |
    # | a call that may run beside others, in a new branch   | unknown    | the work goes on      |
    # | a call in sequence, in a branch begun after the mark | went on    | it is abandoned again |
    # | a step of the user's workflow                        | went on    | it is abandoned again |

    def abandoned(
        self, name: str, entries: Iterable[Entry], outside: Sequence[int]
    ) -> Entry | None:
        """The mark of the call or work `name` whose caller abandoned it and then went on.

        Args:
            name: Its name.
            entries: All that is recorded.
            outside: The ids of the workflow's own steps.
        """
        found = self._abandoned.get(name)
        if found is None:
            return None
        mark = found.step_id
        above = list(_and_above(name))
        began: dict[str, int] = {}
        went_on = any(step_id > mark for step_id in outside)
        for entry in sorted(entries, key=lambda entry: entry.step_id):
            branch = _branch_beside(above, entry.name)
            began.setdefault(branch, entry.step_id)
            if entry.step_id < mark or entry.what == names.ABANDONED:
                continue
            if name in _and_above(entry.name):
                return None
            went_on = went_on or (began[branch] > mark and not entry.concurrent)
        return found if went_on else None

    def _check_not_again(self, path: str) -> None:
        """Say so if the work was done anew though its like is recorded and was not asked for."""
        left = self._orders.get(self._anew.pop(path, ("", "")))
        if left:
            logger.warning(
                "Run %s: %s was carried out anew, while %s like it recorded and not asked for. If "
                "its text was changed since then, that work was done twice.",
                self._run_id,
                path,
                "one is" if len(left) == 1 else f"{len(left)} are",
            )


def _and_above(path: str) -> Iterator[str]:
    """`path`, the one it is in, and so on."""
    while path:
        yield path
        path = path.rpartition("/")[0]


def _branch_beside(above: list[str], name: str) -> str:
    """The outermost path with `name` in it that is not one of `above`."""
    beside = [path for path in _and_above(name) if path not in above]
    return beside[-1] if beside else name
