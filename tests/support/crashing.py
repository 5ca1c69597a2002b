"""Killing a run where a test says, and what has to come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from crewai_dbos.testing.crash import CrashTest, Position, Verdict

AT_ONCE = 6
"""Positions that are worked on at the same time. A recovery mostly waits for DBOS's queue poll."""

Choice = Callable[[CrashTest], Sequence[Position]]


def one_moment_each(test: CrashTest) -> list[Position]:
    """A position for each entry of the run, the moments taking turns."""
    return taking_turns(test.positions())


def taking_turns(every: Sequence[Position]) -> list[Position]:
    """A position for each entry, the moments taking turns."""
    chosen = []
    for number, entry in enumerate(dict.fromkeys(position.entry for position in every)):
        moments = [position for position in every if position.entry == entry]
        chosen.append(moments[number % len(moments)])
    return chosen


def verdicts(
    target: str, inputs: Mapping[str, Any], choose: Choice = one_moment_each, **options: Any
) -> list[Verdict]:
    """What became of the runs that were killed at the chosen positions.

    Args:
        target: As of `CrashTest`, and so are `inputs` and `options`.
        choose: The positions; each is a run of its own.
    """
    with CrashTest(target, inputs, **options) as test:
        return list(test.run_all(choose(test), AT_ONCE))


def survives(*args: Any, **options: Any) -> None:
    """As `verdicts`; every run has to have come to its end as if it had not been killed."""
    wrong = [str(verdict) for verdict in verdicts(*args, **options) if not verdict.ok]
    assert not wrong, "\n".join(wrong)
