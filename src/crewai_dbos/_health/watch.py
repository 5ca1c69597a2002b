"""A worker under watch: whether it lives and is ready, what it works on, and its metrics."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from crewai_dbos._dbos_seam import at_work, recovering
from crewai_dbos._dbos_seam.instance import is_launched
from crewai_dbos._fleet.membership import Membership
from crewai_dbos._health import prometheus, telemetry
from crewai_dbos._health.census import WORKFLOW, census
from crewai_dbos._health.metrics import Source
from crewai_dbos._health.server import HealthServer, Page
from crewai_dbos._health.shared import Shared
from crewai_dbos._runs import counting
from crewai_dbos._runs.counting import Counts

LATE = 0.5
"""The database is out of reach when it has taken no beat for this part of a lease."""


class Watch:
    """What is told of a worker to those who ask.

    Args:
        host, port: Where they ask by HTTP; None if they don't.
        grace: Seconds that its runs have to end when it stops.
        is_stopping: Whether it does.
    """

    def __init__(
        self, host: str, port: int | None, grace: float, is_stopping: Callable[[], bool]
    ) -> None:
        self._host = host
        self._wanted_port = port
        self._grace = grace
        self._is_stopping = is_stopping
        self._source = Source(Counts())
        self._server: HealthServer | None = None
        self._metrics: prometheus.Exposition | None = None

    @property
    def port(self) -> int | None:
        """The port that is listened at, if any."""
        return None if self._server is None else self._server.port

    def begin(self) -> None:
        """Answer from now on, before the worker has begun.

        Raises:
            DefinitionError: The port can't be had.
        """
        if self._wanted_port is not None:
            self._metrics = prometheus.exposition(self._source)
            pages = {
                "/": self._status,
                "/status": self._status,
                "/live": self._live,
                "/ready": self._ready,
                "/metrics": self._exposed,
            }
            self._server = HealthServer(self._host, self._wanted_port, pages)
        if telemetry.is_wanted():
            telemetry.tell_of(self._source)
        if self._wanted_port is not None or telemetry.is_wanted():
            counting.count_in(self._source.counts)

    def works(self, member: Membership) -> None:
        """The worker has its lease, and DBOS is launched."""
        application = recovering.configured_name()
        self._source.member = member
        self._source.census = Shared(lambda: census(member.database, application), "count the runs")

    def end(self) -> None:
        """Answer nobody any more."""
        telemetry.tell_of(None)
        counting.count_in(None)
        if self._server is not None:
            self._server.close()

    # Answers -----------------------------------------------------------------------

    def not_live(self) -> str | None:
        """Why the process is to be ended and another started; None if it is not.

        A database that is away is no reason: it would be away for the next one, too. Nor is it that
        the program has destroyed DBOS, and does something else.
        """
        member = self._source.member
        if member is None or self._is_stopping() or not is_launched() or not member.is_stuck():
            return None
        return "the thread that beats the lease stands still"

    def not_ready(self) -> str | None:
        """Why the worker takes no runs; None if it does."""
        member = self._source.member
        if self._is_stopping():
            return "it stops"
        if member is None:
            return "it has not begun"
        if not is_launched():
            return "DBOS is not launched"
        silent = member.unbeaten_for()
        if silent > LATE * member.seconds:
            return f"the database has taken no beat for {silent:.0f} s"
        return None

    def status(self) -> dict[str, Any]:
        """The worker as plain JSON; nothing of what its runs are asked, or answer."""
        not_live, not_ready = self.not_live(), self.not_ready()
        found: dict[str, Any] = {
            "live": not_live is None,
            "ready": not_ready is None,
            "why_not": not_live or not_ready,
            "stopping": self._is_stopping(),
            "grace": self._grace,
        }
        if (member := self._source.member) is not None:
            holder = member.leases.holder
            found.update(
                executor_id=holder.executor_id,
                process=holder.process,
                application=holder.application,
                version=holder.version,
                lease={"seconds": member.seconds, "unbeaten_for": round(member.unbeaten_for(), 1)},
                taken_over=dict(member.taken_over),
                definitions={noun: names for noun, names in member.definitions().items() if names},
            )
        found["runs"] = self._runs()
        return found

    def _runs(self) -> list[dict[str, Any]]:
        """The runs at work here, and workflows of the user's own, which no definition has begun."""
        ours = [
            {
                "run_id": each.run_id,
                "kind": each.noun,
                "definition": each.name,
                "since": datetime.fromtimestamp(each.since, timezone.utc).isoformat(),
            }
            for each in self._source.counts.at_work()
        ]
        known = {each["run_id"] for each in ours}
        others = [run_id for run_id in at_work.run_ids() if run_id not in known]
        return [*ours, *({"run_id": run_id, "kind": WORKFLOW} for run_id in others)]

    def _live(self, _: str) -> Page:
        return _probe("live", self.not_live())

    def _ready(self, _: str) -> Page:
        return _probe("ready", self.not_ready())

    def _status(self, _: str) -> Page:
        return Page(f"{json.dumps(self.status(), indent=2)}\n".encode(), "application/json")

    def _exposed(self, accept: str) -> Page:
        if self._metrics is None:
            return Page(f"{prometheus.MISSING}\n".encode(), status=501)
        type_, content = self._metrics(accept)
        return Page(content, type_)


def _probe(what: str, why_not: str | None) -> Page:
    if why_not is None:
        return Page(f"{what}\n".encode())
    return Page(f"not {what}: {why_not}\n".encode(), status=503)
