"""Killing a run where a test says, and what has to come of it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from crewai_dbos.testing.crash import CrashTest, Position, Verdict
from crewai_dbos.testing.crash.verdict import judge
from support.entries import some

AT_ONCE = 6
"""Positions that are worked on at the same time. A recovery mostly waits for DBOS's queue poll."""

Choice = Callable[[CrashTest], Sequence[Position]]
Kill = Callable[[CrashTest, Sequence[Position]], list[Verdict]]


def one_moment_each(test: CrashTest, shown: set[str] | None = None) -> list[Position]:
    """A position for each entry that is chosen, the moments taking turns.

    Args:
        test: What is killed.
        shown: As of `some`: the run is one of a table.
    """
    chosen = some_positions(test.positions(), shown)
    # Where a run is killed once or twice, each run of a table begins with another moment.
    first = 0 if shown is None else zlib.crc32(chosen[0].entry.encode())
    return taking_turns(chosen, first)


def some_positions(every: Sequence[Position], shown: set[str] | None = None) -> list[Position]:
    """Those of the entries that `some` chooses."""
    return some(every, lambda position: position.entry, shown)


def taking_turns(every: Sequence[Position], first: int = 0) -> list[Position]:
    """A position for each entry, the moments taking turns, from the `first` on."""
    chosen = []
    for number, entry in enumerate(dict.fromkeys(position.entry for position in every), first):
        moments = [position for position in every if position.entry == entry]
        chosen.append(moments[number % len(moments)])
    return chosen


def killed_apart(test: CrashTest, kills: Sequence[Position]) -> list[Verdict]:
    """A run for each position."""
    return list(test.run_all(kills, AT_ONCE))


def killed_in_chains(
    test: CrashTest, kills: Sequence[Position], chains: int | None = None
) -> list[Verdict]:
    """A few runs, killed at the positions in turn: a process for each kill, instead of two.

    Every process that goes on does some work of its own before the next kill, as two positions
    that follow each other are in two runs. What it records is read by yet another process.

    Args:
        chains: How many runs; by default two, or one for up to three positions.
    """
    number = chains or (2 if len(kills) > 3 else 1)
    parts = [kills[first::number] for first in range(number)]
    with ThreadPoolExecutor(number) as pool:
        return [
            verdict
            for chain in pool.map(lambda part: _chain(test, part), parts)
            for verdict in chain
        ]


def _chain(test: CrashTest, kills: Sequence[Position]) -> list[Verdict]:
    """Runs that are killed at these positions: one, if each is reached after the one before it.

    What goes on side by side may be recorded before its turn comes; it gets a run of its own.
    """
    found = []
    while kills:
        verdict = test.run(*kills)
        reached = verdict.observed.deaths or 1
        verdict = judge(verdict.observed, test.undisturbed, kills[:reached])
        _check_kills(verdict)
        found.append(verdict)
        kills = kills[reached:]
    return found


def _check_kills(verdict: Verdict) -> None:
    """Each process was killed where it should have been: it came that far itself."""
    events = verdict.observed.events
    pids = list(dict.fromkeys(event.pid for event in events))
    came = {(event.pid, event.fields["entry"], event.kind) for event in events}
    for pid, position in zip(pids, verdict.positions[: verdict.observed.deaths], strict=False):
        assert (pid, position.entry, position.moment) in came, f"{position} is no kill of {verdict}"


def verdicts(
    target: str,
    inputs: Mapping[str, Any],
    choose: Choice = one_moment_each,
    kill: Kill = killed_in_chains,
    **options: Any,
) -> list[Verdict]:
    """What became of the runs that were killed at the chosen positions.

    Args:
        target: As of `CrashTest`, and so are `inputs` and `options`.
        choose: The positions.
        kill: In which runs.
    """
    with CrashTest(target, inputs, **options) as test:
        return kill(test, choose(test))


def survives(*args: Any, **options: Any) -> None:
    """As `verdicts`; every run has to have come to its end as if it had not been killed."""
    wrong = [str(verdict) for verdict in verdicts(*args, **options) if not verdict.ok]
    assert not wrong, "\n".join(wrong)
