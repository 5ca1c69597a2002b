"""What happened, as it is counted: attempts at calls, faults, and whom workers took for dead.

The order of the lines in the log is that in which things happened. Seconds are those of a clock
that all processes share (`time.monotonic`), not of one that is shifted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from crewai_dbos.testing import Effect, EffectLog

SLACK = 2.0
"""Seconds in which a call that has ended is recorded, on a machine that has much to do."""

STANDS_STILL = frozenset({"killed", "stopped", "paused", "stalled", "cut"})
"""Faults after which a worker may be taken for dead."""


@dataclass
class Attempt:
    """An attempt at a call."""

    key: str
    mark: str
    pid: int
    begun: int
    begun_at: float
    ended: int | None = None
    ended_at: float | None = None

    @property
    def run(self) -> str:
        return self.key.split("/")[0]

    @property
    def branch(self) -> tuple[str, ...]:
        """The part of the run in which one call comes after the other."""
        return tuple(self.key.split("/")[:2])


@dataclass(frozen=True)
class Fault:
    """A fault, and the processes that it was one of.

    Attributes:
        kind: Which.
        pids: Whose.
        begun_at, over_at: When.
    """

    kind: str
    pids: tuple[int, ...]
    begun_at: float
    over_at: float

    def covers(self, attempt: Attempt) -> bool:
        """Whether the attempt was in flight then: begun, and not surely recorded."""
        ended_at = attempt.ended_at
        return (
            attempt.pid in self.pids
            and attempt.begun_at <= self.over_at + SLACK
            and (ended_at is None or ended_at >= self.begun_at - SLACK)
        )


@dataclass
class Ledger:
    """All of it, after the last run has ended.

    Attributes:
        attempts: At each call, in the order in which they began.
        faults: All.
        gone: Whom a worker took for dead, and when.
    """

    attempts: dict[str, list[Attempt]] = field(default_factory=lambda: defaultdict(list))
    faults: list[Fault] = field(default_factory=list)
    gone: list[tuple[int, float]] = field(default_factory=list)

    @classmethod
    def read(cls, log: EffectLog) -> Ledger:
        found = cls()
        by_mark: dict[str, Attempt] = {}
        for line, effect in enumerate(log.read()):
            if effect.kind == "begun":
                begun = _begun(effect, line)
                by_mark[begun.mark] = begun
                found.attempts[begun.key].append(begun)
            elif effect.kind == "ended":
                ended = by_mark[effect.fields["mark"]]
                ended.ended, ended.ended_at = line, effect.fields["at"]
            elif effect.kind == "fault":
                pids = tuple(effect.fields["pids"])
                found.faults.append(Fault(**{**effect.fields, "pids": pids}))
            elif effect.kind == "gone":
                pid = int(effect.fields["process"].rpartition(":")[2])
                found.gone.append((pid, effect.fields["at"]))
        return found

    def again(self) -> list[Attempt]:
        """Attempts at calls of which another attempt is the one that counts."""
        return [each for every in self.attempts.values() if len(every) > 1 for each in every]

    def unrecorded(self, recorded: set[str]) -> list[str]:
        """Calls of which not exactly one attempt is in the database."""
        return [
            f"{key}: {len(kept)} of {len(every)}"
            for key, every in self.attempts.items()
            if len(kept := [each for each in every if each.mark in recorded]) != 1
        ]

    def made_again(self, recorded: set[str]) -> list[str]:
        """Calls that were begun after the attempt that was recorded had ended."""
        found = []
        for key, every in self.attempts.items():
            for kept in every:
                if kept.mark in recorded and kept.ended is not None:
                    late = [each for each in every if each.begun > kept.ended]
                    late = [each for each in late if not self._was_under_way(each)]
                    found += [f"{key}: {kept} and then {each}" for each in late]
        return found

    def _was_under_way(self, attempt: Attempt) -> bool:
        """Whether its worker may have been paused between the decision to call and the call.

        Then it is the first in its branch that this worker begins after the pause.
        """
        of_branch = [
            each
            for every in self.attempts.values()
            for each in every
            if (each.pid, each.branch) == (attempt.pid, attempt.branch)
        ]
        for fault in self.faults:
            if fault.kind != "paused" or attempt.pid not in fault.pids:
                continue
            after = [each.begun for each in of_branch if each.begun_at > fault.begun_at]
            if attempt.begun == min(after, default=None) and (
                attempt.begun_at <= fault.over_at + SLACK
            ):
                return True
        return False

    def unexplained(self, recorded: set[str]) -> list[str]:
        """Attempts that were not recorded, and were in flight at no fault of their worker."""
        return [
            str(each)
            for each in self.again()
            if each.mark not in recorded and not any(fault.covers(each) for fault in self.faults)
        ]

    def wrongly_dead(self, lease: float) -> list[str]:
        """Workers that were taken for dead and had stood still for no lease."""
        return [
            f"{pid} at {at:.1f}: {[fault for fault in self.faults if pid in fault.pids]}"
            for pid, at in self.gone
            if not any(_is_reason(fault, pid, at, lease) for fault in self.faults)
        ]

    def takeovers(self) -> list[float]:
        """Seconds from a fault of a worker until each of its runs went on elsewhere.

        Those in which the database was away, when nobody could take anything, are left out.
        """
        by_run: dict[str, list[Attempt]] = defaultdict(list)
        for every in self.attempts.values():
            for each in every:
                by_run[each.run].append(each)
        outages = [fault for fault in self.faults if fault.kind == "outage"]
        found = []
        for fault in self.faults:
            for attempts in by_run.values():
                if fault.kind in STANDS_STILL and (over := _taken_over(fault, attempts)):
                    start, end = over
                    if not any(o.begun_at < end and o.over_at > start - 10 for o in outages):
                        found.append(end - start)
        return sorted(found)


def _begun(effect: Effect, line: int) -> Attempt:
    fields = effect.fields
    pid = int(fields.get("pid", effect.pid))
    return Attempt(fields["key"], fields["mark"], pid, line, fields["at"])


def _is_reason(fault: Fault, pid: int, at: float, lease: float) -> bool:
    """Whether the worker had been still for a lease, or was dead, when it was taken for dead."""
    if fault.kind not in STANDS_STILL or pid not in fault.pids:
        return False
    still = min(at, fault.over_at) - fault.begun_at
    return fault.kind in ("killed", "stopped") or still >= lease * 5 / 6


def _taken_over(fault: Fault, attempts: list[Attempt]) -> tuple[float, float] | None:
    """From when until when nobody had the run, if the worker of the fault was at it."""
    start = fault.over_at if fault.kind == "stopped" else fault.begun_at
    before = [each for each in attempts if each.begun_at <= start]
    after = [each for each in attempts if each.begun_at > start]
    if not before or not after:
        return None
    last = max(before, key=lambda each: each.begun)
    first = min(after, key=lambda each: each.begun)
    waits = "payment" in last.run  # for a person, perhaps
    if waits or last.pid not in fault.pids or first.pid in fault.pids:
        return None
    return start, first.begun_at


def histogram(seconds: Iterable[float]) -> str:
    """How many took how long, a line a second."""
    counts = Counter(int(each) for each in seconds)
    if not counts:
        return "  none"
    lines = [
        f"  {second:2} to {second + 1:2} s  {counts[second]:3}  {'#' * counts[second]}"
        for second in range(min(counts), max(counts) + 1)
    ]
    return "\n".join(lines)


def summary(ledger: Ledger, recorded: set[str]) -> dict[str, Any]:
    """The figures that are printed."""
    every = [each for attempts in ledger.attempts.values() for each in attempts]
    return {
        "calls": len(ledger.attempts),
        "attempts": len(every),
        "in flight at a fault": len([e for e in ledger.again() if e.mark not in recorded]),
        "finished calls made again": len(ledger.made_again(recorded)),
        "taken for dead": len(ledger.gone),
        "faults": dict(Counter(fault.kind for fault in ledger.faults)),
    }
