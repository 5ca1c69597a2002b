"""What a kill did to a run, found out by comparing it with one that nothing happened to."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from crewai_dbos._stored import names
from crewai_dbos.testing.crash._faults import (
    AFTER,
    BEFORE,
    DURING,
    RESULT,
    entry_of,
    tells_of_memories,
)
from crewai_dbos.testing.crash._outcome import USAGE, Difference, differences
from crewai_dbos.testing.crash.positions import Position
from crewai_dbos.testing.effects import Effect
from crewai_dbos.testing.request import Request

_UNRECORDED = re.compile(r"Tool '(.+?)' is not recorded: ")
"""What a run says once of such a tool."""


@dataclass
class Observed:
    """A run, seen from outside of its processes.

    Attributes:
        events: Every moment of every entry, in order, of all processes.
        effects: What tools reported to `report_effect`, with the entry they belong to.
        requests: What reached the scripted model server.
        rows: The names of what is recorded, when the run has ended.
        deaths: How many processes were killed where they should be.
        ended: What the last process said: ``status``, and ``answer`` or ``error``; of a flow also
            the ``state``, if its last method ended in that process.
        trouble: How a process ended that should have ended otherwise; "" if none did.
        log: The output of all processes.
    """

    events: list[Effect] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    deaths: int = 0
    ended: dict[str, Any] = field(default_factory=dict)
    trouble: str = ""
    log: str = ""

    def made(self) -> Counter[str]:
        """How often each entry's call was made."""
        return Counter(e.fields["row"] for e in self.events if e.kind == BEFORE)

    def completed(self) -> list[str]:
        """The entries whose outcome was committed before the last process began."""
        last = self.events[-1].pid if self.events else 0
        return [e.fields["row"] for e in self.events if e.kind == AFTER and e.pid != last]


@dataclass
class Verdict:
    """What became of a run that was killed.

    Attributes:
        positions: Where its processes were killed, one after the other.
        observed: The run itself.
        completed: Calls that had been recorded when the last kill came.
        repeated: Recorded calls that were made again, by name.
        in_flight: Calls made again because a kill cut them short, by name: at most one each kill
            for what runs alone, one for each of several that run side by side.
        effects_repeated: Effects of which there are more than in the undisturbed run, though no
            kill cut their call short.
        effects_in_flight: Those of which there are more because a kill did.
        differences: Where the run ended otherwise than the undisturbed one.
        result_equal: Whether the run's result is that of the undisturbed run.
        problems: All that is wrong, in words. Empty if the run survived.
    """

    positions: Sequence[Position]
    observed: Observed
    completed: int = 0
    repeated: list[str] = field(default_factory=list)
    in_flight: list[str] = field(default_factory=list)
    effects_repeated: list[str] = field(default_factory=list)
    effects_in_flight: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    result_equal: bool = False
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the run survived."""
        return not self.problems

    @property
    def unrecorded_tools(self) -> list[str]:
        """The tools that were called and are not recorded: each call of a run is made again."""
        return list(dict.fromkeys(_UNRECORDED.findall(self.observed.log)))

    def __str__(self) -> str:
        where = " then ".join(map(str, self.positions))
        if self.ok:
            return f"{where}: survived"
        tail = [f"    | {line}" for line in self.observed.log.splitlines()[-15:]]
        return "\n".join([f"{where}: {'; '.join(self.problems)}", *tail])


def judge(
    observed: Observed,
    undisturbed: Observed,
    positions: Sequence[Position],
    ignore: Collection[str] = (),
) -> Verdict:
    """Compare a run that was killed at `positions` with the undisturbed one, but for `ignore`."""
    verdict = Verdict(positions, observed)
    problems = verdict.problems
    if observed.deaths != len(positions):
        problems.append(f"{observed.deaths} of {len(positions)} positions were reached")
    if observed.trouble:
        problems.append(observed.trouble)
    if stopped := observed.ended.get("stopped"):
        problems.append(f"the run stopped: {stopped}")

    _count_calls(observed, verdict)
    if any(map(names.in_background, verdict.in_flight)):
        # A save of a memory, done again, finds what it had written, and makes other requests.
        ignore = {*ignore, *(f"result.{name}" for name in USAGE)}
    verdict.differences = list(differences(observed.ended, undisturbed.ended, ignore))
    verdict.result_equal = not any(
        difference.field.partition(".")[0] == "result" for difference in verdict.differences
    )
    problems += map(str, verdict.differences)
    if lost := _comparable(undisturbed) - _comparable(observed):
        problems.append(f"not in the journal: {_listed(lost.elements())}")
    if added := _comparable(observed) - _comparable(undisturbed):
        problems.append(f"in the journal, but not undisturbed: {_listed(added.elements())}")

    if verdict.repeated:
        problems.append(f"recorded, but made again: {_listed(verdict.repeated)}")
    _count_effects(observed, undisturbed, verdict)
    if verdict.effects_repeated:
        again = (
            f"{what} ({_happened(what, observed)})"
            for what in dict.fromkeys(verdict.effects_repeated)
        )
        problems.append(f"effects that happened again: {', '.join(again)}")
    if more := _unrecorded_requests(observed) - _unrecorded_requests(undisturbed):
        problems.append(f"requests of no entry that were made again: {more.total()}")
    return verdict


def _comparable(observed: Observed) -> Counter[str]:
    """The rows that a run has whatever happens to it."""
    rows = [name for name in observed.rows if not tells_of_memories(name)]
    # A call that was abandoned just before the kill is made again, and leaves another mark.
    marks = [name for name in rows if names.is_mark(name)]
    once = {name.rpartition("#")[0] for name in marks}
    return Counter(rows) - Counter(marks) + Counter(once)


def _count_calls(observed: Observed, verdict: Verdict) -> None:
    committed: set[str] = set()
    begun: dict[str, int] = {}
    for event in observed.events:
        entry = event.fields["row"]
        if event.kind == AFTER:
            committed.add(entry)
        elif event.kind == BEFORE and entry in committed:
            verdict.repeated.append(entry)
        elif begun.get(entry, event.pid) != event.pid:
            verdict.in_flight.append(entry)
        if event.kind in (BEFORE, DURING):
            begun[entry] = event.pid
    verdict.completed = len([name for name in observed.completed() if name != RESULT])


def _count_effects(observed: Observed, undisturbed: Observed, verdict: Verdict) -> None:
    happened, usual = (Counter(map(_effect, seen.effects)) for seen in (observed, undisturbed))
    cut_short = Counter(verdict.in_flight)
    for what, times in (happened - usual).items():
        calls = {
            call for e in observed.effects if _effect(e) == what for call in _calls(e, observed)
        }
        allowed = sum(cut_short[call] for call in calls)
        verdict.effects_repeated += [what] * max(0, times - allowed)
        verdict.effects_in_flight += [what] * min(times, allowed)
    if never := usual - happened:
        verdict.problems.append(f"effects that never happened: {_listed(never.elements())}")


def _calls(effect: Effect, observed: Observed) -> set[str]:
    """The calls that may have had the effect: those at work, if it is not known which it was."""
    if effect.fields.get("entry"):
        return {effect.fields["entry"]}
    pid, begun = _process(effect, observed), set[str]()
    for event in observed.events:
        if event.pid != pid:
            continue
        entry = event.fields["row"]
        if event.at > effect.at:
            return begun
        if event.kind == AFTER:
            begun.discard(entry)
        elif event.kind in (BEFORE, DURING):
            begun.add(entry)
    return begun


def _process(effect: Effect, observed: Observed) -> int:
    """The process of the run that had the effect: perhaps by a process that it started itself."""
    pids = {event.pid for event in observed.events}
    earlier = [event.pid for event in observed.events if event.at <= effect.at]
    return effect.pid if effect.pid in pids or not earlier else earlier[-1]


def _happened(what: str, observed: Observed) -> str:
    """Each time it happened: in which process, in which call."""
    in_order = sorted((*observed.events, *observed.effects), key=lambda event: event.at)
    pids = list(dict.fromkeys(event.pid for event in in_order))
    return "; ".join(
        f"process {pids.index(e.pid) + 1}, {e.fields.get('entry') or 'in no recorded call'}"
        for e in observed.effects
        if _effect(e) == what
    )


def _effect(effect: Effect) -> str:
    fields = {name: value for name, value in effect.fields.items() if name != "entry"}
    return f"{effect.kind} {json.dumps(fields, sort_keys=True)}" if fields else effect.kind


def _unrecorded_requests(observed: Observed) -> Counter[str]:
    free = (r for r in observed.requests if not entry_of(r))
    return Counter(request.fingerprint for request in free)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(
        f"{name} ({times} times)" if times > 1 else name for name, times in Counter(names).items()
    )
