"""What a run has recorded, by name, and the step ids of what it records next.

Threads share one `Record`; every method takes its lock. Errors are ordinary here: the journal turns
them into the end of the run.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dbos import DBOS, StepReservation

from crewai_dbos._dbos_seam import DBOSContext, recorded_rows, using_context
from crewai_dbos._journal.entry import Call, Entry, read_entry
from crewai_dbos._journal.parts import Parts
from crewai_dbos._stored import names, sealing
from crewai_dbos._stored.names import ENTRY_VERSION as CURRENT
from crewai_dbos.errors import ConcurrentRunError, DriftError

if TYPE_CHECKING:
    from crewai_dbos._journal.scope import Scope

logger = logging.getLogger("crewai_dbos")


@dataclass
class _Place:
    """What is recorded, claimed and running directly under one path.

    Attributes:
        recorded: The occurrences of each name that wait to be claimed, the first one last.
        claimed: The last new occurrence of each name.
        sequence: The recorded entries in the order of their step ids.
        running: The one new call that is being made here, in a place where calls follow another.
    """

    recorded: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    claimed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    sequence: deque[Entry] = field(default_factory=deque)
    running: str | None = None


class Record:
    """The entries of one execution of a workflow.

    Args:
        root: DBOS's context of the workflow; its counter is kept past every id used here.
    """

    def __init__(self, root: DBOSContext) -> None:
        self._root = root
        self._run_id: str = root.workflow_id
        self._lock = threading.RLock()
        self._locks: dict[str, threading.Lock] = {}
        self._counts: dict[tuple[str, str], int] = defaultdict(int)
        self._places: dict[str, _Place] = defaultdict(_Place)
        self._entries: dict[str, Entry] = {}
        self._foreign: dict[int, str] = {}
        self._outside: list[int] = []
        self.parts = Parts(self._run_id)
        self._last_id = self._drawn = root.function_id
        self._told = False
        self._load()

    def _load(self) -> None:
        for row in recorded_rows(self._run_id):
            entry = read_entry(row)
            self._last_id = max(self._last_id, row.step_id)
            if entry is None:
                self._foreign[row.step_id] = row.name
                continue
            self._last_id = max(self._last_id, entry.last_id)
            self._entries[entry.name] = entry
            self.parts.load(entry)
            place = self._places[entry.path]
            place.recorded[entry.what].append(entry.occurrence)
            place.sequence.append(entry)
        # A run that an earlier release began keeps the names that it has.
        entries = [entry for entry in self._entries.values() if entry.is_readable]
        self._version = min((entry.version for entry in entries), default=CURRENT)
        ids = {entry.key_id for entry in entries}
        self._key = sealing.name_key(next(iter(ids), None)) if ids != {None} else None
        pinned = {n for e in self._entries.values() for n in range(e.step_id + 1, e.last_id + 1)}
        self._outside = sorted(n for n in self._foreign if n not in pinned)
        for place in self._places.values():
            for numbers in place.recorded.values():
                numbers.sort(reverse=True)

    # Names -------------------------------------------------------------------

    def next_path(self, path: str, what: str) -> str:
        """The path of the next `what` under `path`, whether or not something is recorded there."""
        what = self.spelled(what)
        with self._lock:
            self._counts[path, what] += 1
            return names.numbered(path, what, self._counts[path, what])

    def spelled(self, what: str) -> str:
        """`what` as this run has it in names."""
        return names.spelled(what, self._version, self._key and self._key[1])

    @property
    def key_id(self) -> str | None:
        """The id of the key of digests in names, which each entry has; None without encryption."""
        return self._key and self._key[0]

    def lock(self, key: str) -> threading.Lock:
        """The lock of this run called `key`."""
        with self._lock:
            return self._locks.setdefault(key, threading.Lock())

    def claim(self, scope: Scope, call: Call) -> tuple[str, Entry | None]:
        """The name of `call`, and its entry if it is recorded.

        Raises:
            ConcurrentRunError: Another call is running where only the order tells them apart.
            DriftError: Other calls are recorded to come first.
            ControlSignal: The part of the run that `scope` is in has ended.
        """
        counted = scope.ordered and not call.concurrent
        named = call.what if scope.ordered or call.concurrent else call.named_by_content()
        what = self.spelled(named)
        with self._lock:
            self.parts.check_open(scope.path)
            place = self._places[scope.path]
            if counted and place.running is not None:
                raise ConcurrentRunError(
                    f"Run {self._run_id}: {call.what} was called under {scope.path!r} while "
                    f"{place.running} was still running, so only their order would tell them "
                    "apart after a crash. Make the calls one after the other, or each in a run "
                    "of its own (a DBOSAgent.execute_task of its own workflow)."
                )
            name = self._next_name(scope.path, place, what)
            entry = self._entries.get(name)
            if entry is None and self.was_given_up(name):
                return name, None
            self._check_outside(name, entry)
            if entry is not None:
                entry.claimed = True
                self._advance(entry.last_id)
            # What runs in the background is not before or after anything.
            if scope.ordered and not call.background:
                self._check_order(place, name, entry, call.concurrent)
            if counted and entry is None:
                place.running = name
        return name, entry

    def done(self, scope: Scope, name: str) -> None:
        """The new call `name` is not running any more."""
        with self._lock:
            place = self._places[scope.path]
            if place.running == name:
                place.running = None

    def is_recorded(self, scope: Scope, what: str) -> bool:
        """Whether the next `what` of an ordered `scope` will be answered from the record."""
        with self._lock:
            return bool(self._places[scope.path].recorded.get(self.spelled(what)))

    def entries_under(self, path: str) -> Iterator[tuple[str, Entry]]:
        """The recorded entries below `path`, each with its name relative to it."""
        start = f"{path}/"
        for name, entry in self._entries.items():
            if name.startswith(start):
                yield name.removeprefix(start), entry

    def settled(self) -> AbstractContextManager[Any]:
        """Within the block nobody else gets a step id."""
        return self._lock

    def names_under(self, path: str) -> list[str]:
        """The names of the recorded entries below `path`, relative to it."""
        return [name for name, _ in self.entries_under(path)]

    def unclaimed_under(self, path: str) -> Iterator[Entry]:
        """Claim every entry below `path` that was not asked for."""
        for name, entry in self._entries.items():
            if name.startswith(f"{path}/") and not entry.claimed:
                entry.claimed = True
                yield entry

    def was_given_up(self, name: str) -> Entry | None:
        """The mark of the call or part `name`, if it is to be given up again; see `Parts`."""
        return self.parts.given_up(name, self._entries.values(), self._outside)

    def recorded_step(self, step_id: int) -> str | None:
        """The name of the step of somebody else that is recorded at `step_id`."""
        return self._foreign.get(step_id)

    def _next_name(self, path: str, place: _Place, what: str) -> str:
        # Calls of equal content are interchangeable, so those already recorded go first.
        waiting = place.recorded.get(what)
        if waiting:
            return names.numbered(path, what, waiting.pop())
        occurrence = place.claimed[what] + 1
        while names.numbered(path, what, occurrence) in self._entries:
            occurrence += 1
        place.claimed[what] = occurrence
        return names.numbered(path, what, occurrence)

    def _check_outside(self, name: str, entry: Entry | None) -> None:
        """The workflow's own earlier steps must not be passed over: they would be made again."""
        at = bisect_right(self._outside, self._root.function_id)
        skipped = self._outside[at] if at < len(self._outside) else None
        if skipped is None or (entry is not None and skipped > entry.step_id):
            return
        raise DriftError(
            f"Run {self._run_id}: {name} was called before the workflow's own step {skipped} "
            f"({self._foreign[skipped]}), which is recorded to come first. If the code changed, "
            f"put it back and DBOS.resume_workflow({self._run_id!r}), or fork the run. If that "
            "step is made beside the run, make it before or after."
        )

    def _check_order(self, place: _Place, name: str, entry: Entry | None, concurrent: bool) -> None:
        """A recorded call whose turn has passed means that the code now asks for other calls."""
        if concurrent and entry is not None:
            return
        for earlier in place.sequence:
            if entry is not None and earlier.step_id >= entry.step_id:
                break
            if earlier.claimed or earlier.background or (concurrent and earlier.concurrent):
                continue
            raise DriftError(
                f"Run {self._run_id} was recorded by other code: next comes {earlier.name}, but "
                f"{name} was called. Put the code back and "
                f"DBOS.resume_workflow({self._run_id!r}), or fork the run."
            )
        while place.sequence and place.sequence[0].claimed:
            place.sequence.popleft()

    # Step ids ----------------------------------------------------------------

    def reserve(self, path: str, ids: int = 1) -> StepReservation:
        """The next of `ids` consecutive step ids, past all that are recorded or kept free.

        Args:
            path: The scope that they are for.
            ids: How many.

        Raises:
            ConcurrentRunError: The workflow draws ids elsewhere at the same time.
            ControlSignal: The part of the run that `path` is in has ended.
        """
        with self._lock:
            self.parts.check_open(path)
            self._check_alone()
            self._advance(self._last_id)
            with using_context(self._root):
                first = last = DBOS.reserve_step()
                for _ in range(ids - 1):
                    last = DBOS.reserve_step()
            self._last_id = self._drawn = last.step_id
        if last.step_id != first.step_id + ids - 1:
            raise ConcurrentRunError(
                f"Run {self._run_id}: the workflow started a DBOS step of its own while a run was "
                "open in it. Wait for the run first."
            )
        return first

    def reserve_last(self, path: str) -> StepReservation:
        """As `reserve`, for the last entry of a part that failed or was given up.

        A thread that it left behind records nothing afterwards.
        """
        with self._lock:
            last = self.reserve(path)
            self.parts.end(path)
        return last

    def _check_alone(self) -> None:
        if self.parts.any_open and self._root.function_id > self._drawn and not self._told:
            self._told = True
            logger.warning(
                "Run %s: the workflow made a DBOS step of its own while an agent was at work in "
                "it. If a crash comes between the two, the run can't tell their order and stops. "
                "Make the step before the agent's call or after it.",
                self._run_id,
            )

    def enter(self, path: str, order: str | None) -> None:
        """The part `path` of the workflow begins; see `Parts.enter`."""
        with self._lock:
            first = not self.parts.any_open
            self.parts.enter(path, order)
            if first:
                self._drawn = self._root.function_id

    def leave(self, path: str) -> None:
        """The part `path` of the workflow has ended."""
        with self._lock:
            self._check_alone()
            self.parts.leave(path)

    def move_past(self, path: str) -> None:
        """DBOS's counter moves past everything recorded under `path`."""
        with self._lock:
            inside = [e for n, e in self._entries.items() if n.startswith(f"{path}/")]
            self._advance(max((entry.last_id for entry in inside), default=0))

    def check_complete(self, path: str, *, background: bool = True) -> None:
        """The work under `path` has returned.

        Args:
            background: Whether what goes on in the background has ended there too.

        Raises:
            DriftError: A call recorded there was not asked for.
        """
        for name, entry in self._entries.items():
            # What handled an event of a call that was answered from the record was not asked again.
            expected = "/event:" not in name and entry.what != names.GIVEN_UP
            if names.inside_save(name) or (not background and names.in_background(name)):
                continue
            if name.startswith(f"{path}/") and not entry.claimed and expected:
                raise DriftError(
                    f"Run {self._run_id} was recorded by other code: {name} is recorded, but was "
                    f"not called. Put the code back and DBOS.resume_workflow({self._run_id!r}), "
                    "or fork the run."
                )

    def _advance(self, step_id: int) -> None:
        # Keeps DBOS's own counter where it was when this entry was recorded, for steps that the
        # user's workflow makes after us.
        self._root.function_id = max(self._root.function_id, step_id)
        self._drawn = max(self._drawn, step_id)
