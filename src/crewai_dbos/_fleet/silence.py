"""Which workers have said nothing for as long as their lease, as far as this process has looked.

Neither the database's clock nor that of a peer says so: a beat that does not change while this
process looks, again and again, does. Time in which nobody could look, as the database was away or
everything stood still, counts for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from crewai_dbos._fleet.leases import RELEASED, Holder, Lease

_LOOKS = 3
"""At least so many looks, after the first one, find a beat unchanged before its worker is dead."""


@dataclass(frozen=True)
class Heard:
    """What was heard of a worker: its beat, when it was seen, and for how long it is the same."""

    beat_ms: int
    at: float
    silent: float


class Silence:
    """The silence of workers, by the clock of this process."""

    def __init__(self) -> None:
        self._heard: dict[Holder, Heard] = {}
        self._due = math.inf

    def due(self) -> float:
        """Seconds from the last look until a lease can have run out that had not by then.

        Asked once after a look: where the next one fails, there is no hurry.
        """
        due, self._due = self._due, math.inf
        return due

    def after(self, leases: Collection[Lease], begun: float, ended: float) -> set[Holder]:
        """Whose leases have run out.

        Args:
            leases: All that there are now.
            begun, ended: When they were read, by this process's clock.
        """
        heard = {}
        for lease in leases:
            silent, before = 0.0, self._heard.get(lease.holder)
            if before is not None and before.beat_ms == lease.beat_ms:
                silent = before.silent + min(begun - before.at, lease.seconds / _LOOKS)
            heard[lease.holder] = Heard(lease.beat_ms, ended, silent)
        self._heard = heard
        left = {each.holder: each.seconds - heard[each.holder].silent for each in leases}
        released = {each.holder for each in leases if each.beat_ms == RELEASED}
        gone = released | {holder for holder, seconds in left.items() if seconds < 0}
        self._due = min((left[each] for each in left.keys() - gone), default=math.inf)
        return gone
