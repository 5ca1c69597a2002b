"""What a run has recorded, by name.

Threads share one `Record`: what changes after it was loaded is read and changed under its lock.
Errors are ordinary here: the journal turns them into the end of the run.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import defaultdict, deque
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NoReturn

from dbos import StepReservation

from crewai_dbos._dbos_seam.context import DBOSContext
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.drift import Onward, drift
from crewai_dbos._journal.entry import Entry, entry_of
from crewai_dbos._journal.execution import Execution
from crewai_dbos._journal.joined_work import JoinedWork
from crewai_dbos._journal.pages import Pages
from crewai_dbos._journal.place import Place
from crewai_dbos._journal.step_ids import StepIds
from crewai_dbos._stored import names, sealing
from crewai_dbos._stored.names import ENTRY_VERSION as CURRENT
from crewai_dbos.errors import ConcurrentRunError

_CALLS = ("embedding", "knowledge", "llm", "mcp", "memory", "person", "step", "tool")
"""Kinds of entries."""


@dataclass
class _Contents:
    """What is recorded, claimed and running directly under one path.

    Attributes:
        entries: What is recorded here, in the order of step ids.
        waiting: The occurrences of each name that wait to be claimed, the first one last.
        claimed: The last new occurrence of each name.
        sequence: The `entries`, less those at their front that are claimed.
        running: The one new call that is being made here, where calls follow one another.
        inside: The paths right below this one under which something is recorded.
    """

    entries: list[Entry] = field(default_factory=list)
    waiting: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    claimed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    sequence: deque[Entry] = field(default_factory=deque)
    running: str | None = None
    inside: set[str] = field(default_factory=set)


class Record:
    """The entries of one execution of a workflow.

    Args:
        root: DBOS's context of the workflow.
        execution: What this is the record of.

    Attributes:
        joined: The agents, crews and flows that the workflow has called.
        ids: The step ids of what comes next.
    """

    def __init__(self, root: DBOSContext, execution: Execution) -> None:
        self._run_id: str = root.workflow_id
        self._lock = threading.RLock()
        self._locks: dict[str, threading.Lock] = {}
        self._counts: dict[tuple[str, str], int] = defaultdict(int)
        self._at: dict[str, _Contents] = defaultdict(_Contents)
        self._entries: dict[str, Entry] = {}
        self._foreign: dict[int, str] = {}
        self.joined = JoinedWork(self._run_id)
        self.ids = StepIds(root, self._lock, self.joined)
        self._load(Pages(execution))

    def _load(self, pages: Pages) -> None:
        for row, head in pages.open():
            entry = entry_of(row.step_id, row.name, head, pages)
            self.ids.keep_free(row.step_id if entry is None else entry.last_id)
            if entry is None:
                self._foreign[row.step_id] = row.name
                continue
            pages.add(row)
            self._entries[entry.name] = entry
            self.joined.load(entry)
            self._put(entry)
        # A run that an earlier release began keeps the names that it has.
        entries = [entry for entry in self._entries.values() if entry.is_readable]
        self._version = min((entry.version for entry in entries), default=CURRENT)
        ids = (entry.key_id for entry in entries if entry.key_id is not None)
        key_id = next(ids, None)
        self._key = None if entries and key_id is None else sealing.name_key(key_id)
        pinned = {n for e in self._entries.values() for n in range(e.step_id + 1, e.last_id + 1)}
        self._outside = sorted(n for n in self._foreign if n not in pinned)
        for contents in self._at.values():
            for numbers in contents.waiting.values():
                numbers.sort(reverse=True)

    def _put(self, entry: Entry) -> None:
        contents = self._at[entry.path]
        contents.entries.append(entry)
        contents.waiting[entry.what].append(entry.occurrence)
        contents.sequence.append(entry)
        below = entry.path
        while below:
            above = below.rpartition("/")[0]
            if below in self._at[above].inside:
                break
            self._at[above].inside.add(below)
            below = above

    def _below(self, path: str) -> list[Entry]:
        """What is recorded under `path` and below it, by step id; under "" all that is."""
        found, paths = [], [path]
        while paths:
            contents = self._at.get(paths.pop())
            if contents is not None:
                found += contents.entries
                paths += contents.inside
        return sorted(found, key=lambda entry: entry.step_id)

    # Names -------------------------------------------------------------------

    def next_path(self, path: str, what: str) -> str:
        """The path of the next `what` under `path`, whether or not something is recorded there."""
        what = self.stored_name(what)
        with self._lock:
            self._counts[path, what] += 1
            return names.numbered(path, what, self._counts[path, what])

    def stored_name(self, what: str) -> str:
        """`what` as this run has it in names."""
        return names.stored_name(what, self._version, self._key and self._key[1])

    @property
    def key_id(self) -> str | None:
        """The id of the key of digests in names, which each entry has; None without encryption."""
        return self._key and self._key[0]

    def lock(self, key: str) -> threading.Lock:
        """The lock of this run called `key`."""
        with self._lock:
            return self._locks.setdefault(key, threading.Lock())

    def allocating_alone(self) -> AbstractContextManager[Any]:
        """Within the block nobody else gets a step id."""
        return self._lock

    # Claims ------------------------------------------------------------------

    def claim(self, place: Place, call: Call) -> tuple[str, Entry | None]:
        """The name of `call`, and its entry if it is recorded.

        Raises:
            ConcurrentRunError: Another call is running where only the order tells them apart.
            DriftError: Other calls are recorded to come first.
            ControlSignal: The work that `place` is in has ended.
        """
        counted = place.sequential and not call.concurrent
        named = call.what if place.sequential or call.concurrent else call.named_by_content()
        what = self.stored_name(named)
        with self._lock:
            self.joined.check_open(place.path)
            contents = self._at[place.path]
            if counted and contents.running is not None:
                raise ConcurrentRunError(
                    f"Run {self._run_id}: {call.what} was called under {place.path!r} while "
                    f"{contents.running} was still running, so only their order would tell them "
                    "apart after a crash. Make the calls one after the other, or each in a run "
                    "of its own (a DBOSAgent.execute_task of its own workflow)."
                )
            name = self._next_name(place.path, contents, what)
            entry = self._entries.get(name)
            if self.abandoned(name):
                if entry is not None:  # written while it was being abandoned
                    entry.claimed = True
                    self.ids.advance(entry.last_id)
                return name, None
            skipped = self._skipped(entry)
            if entry is not None and skipped is None:
                entry.claimed = True
                self.ids.advance(entry.last_id)
            # What runs in the background is not before or after anything.
            if place.sequential and not call.background:
                self._check_sequence(contents, name, entry, call.concurrent, skipped)
            if skipped is not None:
                self._refuse_to_skip(name, skipped)
            if counted and entry is None:
                contents.running = name
        return name, entry

    def done(self, place: Place, name: str) -> None:
        """The new call `name` is not running any more."""
        with self._lock:
            contents = self._at[place.path]
            if contents.running == name:
                contents.running = None

    def is_recorded(self, place: Place, what: str) -> bool:
        """Whether the next `what` of a sequential `place` will be answered from the record."""
        with self._lock:
            return bool(self._at[place.path].waiting.get(self.stored_name(what)))

    def abandoned(self, name: str) -> Entry | None:
        """The mark of the call or work `name`, if it is to be abandoned again; see `JoinedWork`."""
        with self._lock:
            return self.joined.abandoned(name, self._entries.values(), self._outside)

    def count_of_calls(self) -> int:
        """How many calls are recorded that somebody would miss, and not what serves the others."""
        return sum(entry.kind in _CALLS for entry in self._entries.values())

    def recorded_step(self, step_id: int) -> str | None:
        """The name of the step of somebody else that is recorded at `step_id`."""
        with self._lock:
            return self._foreign.get(step_id)

    def _next_name(self, path: str, contents: _Contents, what: str) -> str:
        # Calls of equal content are interchangeable, so those already recorded go first.
        waiting = contents.waiting.get(what)
        if waiting:
            return names.numbered(path, what, waiting.pop())
        occurrence = contents.claimed[what] + 1
        while names.numbered(path, what, occurrence) in self._entries:
            occurrence += 1
        contents.claimed[what] = occurrence
        return names.numbered(path, what, occurrence)

    def _skipped(self, entry: Entry | None) -> int | None:
        """The workflow's own earlier step that `entry`, or a new call, would pass over."""
        at = bisect_right(self._outside, self.ids.counter)
        skipped = self._outside[at] if at < len(self._outside) else None
        if skipped is None or (entry is not None and skipped > entry.step_id):
            return None
        return skipped

    def _refuse_to_skip(self, name: str, skipped: int) -> NoReturn:
        """The workflow's own earlier steps must not be passed over: they would be made again."""
        raise drift(
            f"Run {self._run_id}: {name} was called before the workflow's own step {skipped} "
            f"({self._foreign[skipped]}), which is recorded to come first. If that step is made "
            "beside the run, make it before or after.",
            Onward(step=skipped),
        )

    def _check_sequence(
        self,
        contents: _Contents,
        name: str,
        entry: Entry | None,
        concurrent: bool,
        skipped: int | None,
    ) -> None:
        """A recorded call whose turn has passed means that the code now asks for other calls.

        Args:
            skipped: The workflow's own step that it would pass over, too.
        """
        if concurrent and entry is not None:
            return
        for earlier in contents.sequence:
            if entry is not None and earlier.step_id >= entry.step_id:
                break
            if earlier.claimed or earlier.background or (concurrent and earlier.concurrent):
                continue
            onward = self.onward(earlier.name)
            if skipped is not None:
                onward = Onward(step=min(skipped, earlier.step_id))
            raise drift(
                f"Run {self._run_id} was recorded by other code: next comes {earlier.name}, but "
                f"{name} was called.",
                onward,
            )
        while contents.sequence and contents.sequence[0].claimed:
            contents.sequence.popleft()

    # What is below a path ----------------------------------------------------

    def entries_below(self, path: str) -> list[tuple[str, Entry]]:
        """The recorded entries below `path`, each with its name relative to it."""
        with self._lock:
            return [(entry.name.removeprefix(f"{path}/"), entry) for entry in self._below(path)]

    def claim_below(self, path: str) -> list[Entry]:
        """Claim every entry below `path` that was not asked for. Returns them."""
        with self._lock:
            left = [entry for entry in self._below(path) if not entry.claimed]
            for entry in left:
                entry.claimed = True
            return left

    def check_complete(self, path: str, *, background: bool = True) -> None:
        """The work under `path` has returned.

        Args:
            background: Whether what goes on in the background has ended there too.

        Raises:
            DriftError: A call recorded there was not asked for.
        """
        with self._lock:
            left = [e for e in self._below(path) if self._is_missed(e, background)]
            if left:
                raise drift(
                    f"Run {self._run_id} was recorded by other code: {left[0].name} is recorded, "
                    "but was not called.",
                    self.onward(*_first_ones(left)),
                )

    def _is_missed(self, entry: Entry, background: bool) -> bool:
        """Whether code that has come to its end should have asked for `entry`, and has not."""
        name = entry.name
        if names.inside_save(name) or (not background and names.in_background(name)):
            return False
        # What handled an event of a call answered from the record was not asked again.
        return not (entry.claimed or "/event:" in name or entry.what == names.ABANDONED)

    # Other code -----------------------------------------------------------------

    def onward(self, *places: str) -> Onward:
        """The fork that the code of now can finish, as it fits all but these.

        Args:
            places: Names of entries, or of places with entries in them.
        """
        with self._lock:
            steps = [entry.step_id for place in places for entry in self._of(place)]
            first = min(steps, default=0)
            if first and any(step > first for step in self._outside):
                return Onward(step=first)  # only their numbers tell the user's steps apart
            return Onward(places) if places else Onward()

    def _of(self, place: str) -> list[Entry]:
        own = self._entries.get(place)
        return self._below(place) + ([own] if own is not None else [])

    def onward_of_step(self, step_id: int) -> Onward:
        """As `onward`, of a DBOS operation that an entry keeps an id for."""
        with self._lock:
            pins = (e.name for e in self._entries.values() if e.step_id < step_id <= e.last_id)
            pin = next(pins, None)
            return Onward(step=step_id) if pin is None else self.onward(pin)

    def followers(self, path: str) -> tuple[list[str], Onward] | None:
        """What began when the work `path` had recorded its last call, and may have its result.

        Returns:
            What it is, less what came after some of it, and the fork without it; None if there is
            none.
        """
        above = path.rpartition("/")[0]
        with self._lock:
            last = max((e.last_id for e in self._below(path) if not e.background), default=0)
            began: dict[str, int] = {}
            for entry in self._below(above):
                if not (entry.background or names.in_background(entry.name)):
                    below = entry.name.removeprefix(f"{above}/") if above else entry.name
                    name = "/".join(filter(None, (above, below.partition("/")[0])))
                    began.setdefault(name, entry.step_id)
            later = {name: s for name, s in began.items() if s > last and name != path}
            outside = [] if above else [step for step in self._outside if step > last]
            if not (later or outside):
                return None
            if outside and outside[0] < min(later.values(), default=outside[0] + 1):
                told = f"the workflow's own step {outside[0]} ({self._foreign[outside[0]]})"
                return [told], Onward(step=outside[0])
            ended = min(max(entry.last_id for entry in self._of(name)) for name in later)
            first_ones = [name for name, step in later.items() if step <= ended]
            return first_ones, self.onward(*first_ones)

    # Work that joins -----------------------------------------------------------

    def enter(self, path: str, work_order: str | None) -> None:
        """The work `path` joins the workflow; see `JoinedWork.enter`."""
        with self._lock:
            first = not self.joined.is_any_open
            self.joined.enter(path, work_order)
            if first:
                self.ids.begin()

    def leave(self, path: str) -> None:
        """The work `path` has ended."""
        with self._lock:
            self.ids.check_alone()
            self.joined.leave(path)

    def move_past(self, path: str) -> None:
        """DBOS's counter moves past everything recorded under `path`."""
        with self._lock:
            self.ids.advance(max((entry.last_id for entry in self._below(path)), default=0))

    def reserve_last(self, path: str) -> StepReservation:
        """The step id of the last entry of work that failed or was abandoned.

        A thread that it left behind records nothing afterwards.
        """
        with self._lock:
            last = self.ids.reserve(path)
            self.joined.end(path)
        return last


def _first_ones(entries: list[Entry]) -> list[str]:
    """The names of entries, less those that depend on others of them as they come later."""
    found: list[str] = []
    passed: set[str] = set()
    for entry in entries:
        if entry.path not in passed:
            found.append(entry.name)
        if not (entry.concurrent or entry.background):
            passed.add(entry.path)
    return found
