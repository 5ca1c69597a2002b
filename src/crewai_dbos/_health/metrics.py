"""What is measured of a worker and of the runs in its database, under which names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from crewai_dbos._events.event import CALLS
from crewai_dbos._fleet.membership import Membership
from crewai_dbos._health.census import Census
from crewai_dbos._health.shared import Shared
from crewai_dbos._runs.counting import OUTCOMES, Counts

Values = Mapping[tuple[str, ...], float]
"""Numbers, by the values of their labels."""


@dataclass
class Source:
    """Where the numbers come from.

    Attributes:
        counts: What this worker's runs have done.
        member: The worker among the others; None until it is one.
        census: The runs in the database; None until it can be asked.
        seen: By instrument, the labels of which it had numbers before.
    """

    counts: Counts
    member: Membership | None = None
    census: Shared[Census] | None = None
    seen: dict[str, frozenset[tuple[str, ...]]] = field(default_factory=dict)

    def counted(self, read: Callable[[Census], Values]) -> Values | None:
        """What `read` finds in the database; None if that does not answer."""
        found = None if self.census is None else self.census.value()
        return None if found is None else read(found)


@dataclass(frozen=True)
class Instrument:
    """Something that is measured.

    Attributes:
        name: As OpenTelemetry has it; Prometheus has ``_`` for each dot, the unit, and ``_total``.
        help: What it is.
        read: Returns the numbers; None if there are none to be had.
        labels: The names of the labels.
        is_counter: Whether it only grows, while the worker lives.
        unit: What is counted, where that is no thing.
    """

    name: str
    help: str
    read: Callable[[Source], Values | None] = field(repr=False)
    labels: tuple[str, ...] = ()
    is_counter: bool = False
    unit: str = ""

    def values(self, source: Source) -> Values:
        """The numbers that there are now. What there is none of any more is 0, and is not left out:
        a series that ends says nothing.
        """
        found = self.read(source)
        if found is None:
            return {}
        before = source.seen.get(self.name, frozenset())
        source.seen[self.name] = before | found.keys()
        return {**dict.fromkeys(before, 0), **found}


DEFINITION = ("kind", "definition")

# A rate is computed from two numbers: a series that begins with its first event hides that one.
_NO_CALLS: Values = {(kind, outcome): 0 for kind in CALLS for outcome in ("done", "failed")}
_NONE_REPLAYED: Values = {(kind,): 0 for kind in CALLS}

INSTRUMENTS = (
    Instrument(
        "crewai_dbos.runs",
        "Runs in the database that have not ended",
        lambda source: source.counted(lambda census: census.runs),
        (*DEFINITION, "state"),
    ),
    Instrument(
        "crewai_dbos.queue.depth",
        "Runs that wait in a queue",
        lambda source: source.counted(lambda census: census.queued),
        ("queue",),
    ),
    Instrument(
        "crewai_dbos.queue.oldest",
        "For how long the oldest run in a queue has waited",
        lambda source: source.counted(lambda census: census.oldest),
        ("queue",),
        unit="seconds",
    ),
    Instrument(
        "crewai_dbos.requests.open",
        "Requests to people that nobody has answered",
        lambda source: source.counted(lambda census: {(): census.requests}),
    ),
    Instrument(
        "crewai_dbos.at_work",
        "Executions of runs that go on in this worker",
        lambda source: _at_work(source.counts),
        DEFINITION,
    ),
    Instrument(
        "crewai_dbos.executions",
        "Executions of runs that have come to an end in this worker",
        lambda source: {**_no_executions(source), **source.counts.executions()},
        (*DEFINITION, "outcome"),
        is_counter=True,
    ),
    Instrument(
        "crewai_dbos.calls",
        "Calls that this worker has made and recorded",
        lambda source: {**_NO_CALLS, **source.counts.calls()},
        ("kind", "outcome"),
        is_counter=True,
    ),
    Instrument(
        "crewai_dbos.calls.replayed",
        "Calls that this worker has answered from the record",
        lambda source: {**_NONE_REPLAYED, **source.counts.replayed()},
        ("kind",),
        is_counter=True,
    ),
    Instrument(
        "crewai_dbos.tokens",
        "Tokens of requests to LLMs that this worker has made; cached ones are input, too",
        lambda source: source.counts.tokens(),
        ("model", "type"),
        is_counter=True,
    ),
    Instrument(
        "crewai_dbos.takeovers",
        "Runs of other workers that this worker has had go on, by why those did not",
        lambda source: _taken_over(source),
        ("reason",),
        is_counter=True,
    ),
    Instrument(
        "crewai_dbos.lease.unbeaten",
        "Time since the database has taken this worker's last beat",
        lambda source: {(): source.member.unbeaten_for()} if source.member else None,
        unit="seconds",
    ),
)


def _no_executions(source: Source) -> Values:
    if source.member is None:
        return {}
    return {
        (noun, name, outcome): 0
        for noun, names in source.member.definitions().items()
        for name in names
        for outcome in OUTCOMES
    }


def _taken_over(source: Source) -> Values | None:
    if source.member is None:
        return None
    return {(reason,): number for reason, number in source.member.taken_over.items()}


def _at_work(counts: Counts) -> Values:
    found: dict[tuple[str, ...], float] = {}
    for each in counts.at_work():
        key = (each.noun, each.name)
        found[key] = found.get(key, 0) + 1
    return found
