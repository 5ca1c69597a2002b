"""Where a run can be killed, read off what a run that was not killed did."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from crewai_dbos.testing.crash._faults import AFTER, DURING, MOMENTS
from crewai_dbos.testing.crash.errors import CrashTestError
from crewai_dbos.testing.effects import Effect


@dataclass(frozen=True)
class Position:
    """A moment of one entry of the journal.

    Attributes:
        entry: The entry's name.
        moment: ``before`` (it is about to be made), ``asked`` (the request to a person is in the
            database), ``parked`` (the run is left to its row), ``during`` (it has reported an
            effect, or its request is with the model server), ``unrecorded`` (it has an outcome,
            which is not yet in the database) or ``after`` (that is committed).
        by_model: Whether the model server has to strike, while the request waits for its reply.
    """

    entry: str
    moment: str
    by_model: bool = False

    def __str__(self) -> str:
        return f"{self.entry}-{self.moment}"


def positions(events: Sequence[Effect]) -> Iterator[Position]:
    """Every position of a run, in the order in which its entries were recorded.

    Args:
        events: What `_faults` told of that run.
    """
    seen = {(event.fields["entry"], event.kind): event for event in events}
    for event in events:
        if event.kind != AFTER:
            continue
        entry = event.fields["entry"]
        for moment in MOMENTS:
            if (found := seen.get((entry, moment))) is not None:
                by_model = moment == DURING and found.fields.get("by") == "model"
                yield Position(entry, moment, by_model)


def sample(every: Sequence[Position], count: int, seed: int) -> list[Position]:
    """`count` of the positions, spread over the entries' names, the same for the same `seed`.

    Raises:
        CrashTestError: `count` is none.
    """
    if count < 1:
        raise CrashTestError(f"{count} positions are none: take 1 or more, or leave it out for all")
    if count >= len(every):
        return list(every)
    choice = random.Random(seed)
    bounds = [round(i * len(every) / count) for i in range(count + 1)]
    by_name = in_order_of_names(every)
    chosen = {choice.choice(by_name[a:b]) for a, b in pairwise(bounds)}
    return [position for position in every if position in chosen]


def in_order_of_names(every: Sequence[Position]) -> list[Position]:
    """The same order for every run: calls at the same time are recorded as chance has it."""

    def key(position: Position) -> tuple[Any, ...]:
        parts = re.split(r"(\d+)", position.entry)
        moment = MOMENTS.index(position.moment)
        return [int(p) if p.isdigit() else p for p in parts], moment

    return sorted(every, key=key)
