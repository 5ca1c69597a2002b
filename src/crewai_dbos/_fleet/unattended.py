"""Runs under the lease of this worker that nothing in it carries out.

DBOS forgets what it has claimed if the answer to its COMMIT is lost, as when a database fails over.
No peer takes the runs of a worker that lives, so it puts them back itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

Execution = tuple[str, str]
"""The ids of a run and of its execution."""


class Unattended:
    """Since when runs have been unattended, by the clock of this process."""

    def __init__(self) -> None:
        self._since: dict[Execution, float] = {}

    def due(
        self, claimed: Iterable[Execution], at_work: Collection[str], now: float, seconds: float
    ) -> list[Execution]:
        """Those that are to be put back.

        Args:
            claimed: Under our lease, looked up before `at_work`.
            at_work: The ids of the runs that are carried out here.
            now: Seconds.
            seconds: After how many a run is put back: a claim takes a moment to be carried out.
        """
        self._since = {
            each: self._since.get(each, now) for each in claimed if each[0] not in at_work
        }
        return [each for each, since in self._since.items() if now - since >= seconds]
