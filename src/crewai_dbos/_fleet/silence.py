"""Which workers are silent: their row has not changed for as long as their lease lasts.

That time is counted by the clock of this process alone, and only while it could write its own row.
When it can't, nobody can: the database is away or takes no writes, or every machine stands still.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from crewai_dbos._fleet.leases import Holder, Lease

_STEPS = 3
"""A silence is more than so many of our own beats long."""


@dataclass(frozen=True)
class Heard:
    """What was heard of a worker.

    Attributes:
        beat_ms: Its beat.
        until: Up to when it is known for how long this is the same.
        silent: That is how many seconds.
    """

    beat_ms: int
    until: float
    silent: float


class Silence:
    """The silence of workers, by the clock of this process."""

    def __init__(self) -> None:
        self._heard: dict[Holder, Heard] = {}

    def after(self, leases: Iterable[Lease], written: float, ended: float) -> set[Holder]:
        """Whose leases have run out.

        Args:
            leases: All that there are now.
            written: When the last write of ours that went well was begun, before they were read.
            ended: When they were read.
        """
        heard = {}
        for lease in leases:
            before = self._heard.get(lease.holder)
            if before is None or before.beat_ms != lease.beat_ms:
                heard[lease.holder] = Heard(lease.beat_ms, ended, 0.0)
                continue
            more = max(0.0, written - before.until)
            is_gap = more > lease.seconds / 2  # after one everybody has a lease to come back
            silent = 0.0 if is_gap else before.silent + min(more, lease.seconds / _STEPS)
            heard[lease.holder] = Heard(lease.beat_ms, max(written, before.until), silent)
        self._heard = heard
        return {
            lease.holder
            for lease in leases
            if lease.is_released or heard[lease.holder].silent > lease.seconds
        }
