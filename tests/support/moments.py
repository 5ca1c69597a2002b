"""Which of the positions of a run to kill it at."""

from __future__ import annotations

from collections.abc import Sequence

from crewai_dbos.testing.crash import Position


def taking_turns(every: Sequence[Position]) -> list[Position]:
    """A position for each entry, the moments taking turns."""
    chosen = []
    for number, entry in enumerate(dict.fromkeys(position.entry for position in every)):
        moments = [position for position in every if position.entry == entry]
        chosen.append(moments[number % len(moments)])
    return chosen
