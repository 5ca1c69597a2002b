"""A run on a time axis: a row for each thing in it, with where its bar begins and ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from crewai_dbos._control.run import error_of_its_own
from crewai_dbos.control import Cost, Node, Run

MOST = 1000
"""Rows that are shown at a time."""

FEW = 150
"""Of more rows than these, the deep ones are left to a look at what they are in."""

_LEAST = 0.4
"""Percent of the axis: a shorter bar would not be seen."""


@dataclass(frozen=True)
class Row:
    """A thing in a run.

    Attributes:
        node: What it is.
        depth: How deep it lies.
        look: Of its bar: ``replayed``, ``waits``, or its state.
        left, width: Of its bar, in percent of the axis; None where its time is not known.
        usd: What it has cost; None where a price is not known.
        spent: Whether it has cost anything.
        inside, failed: How many things in it are left out, and how many of these have failed.
        error: What is said in it of why it has failed, if no row of something inside says it.
    """

    node: Node
    depth: int
    look: str
    left: float | None
    width: float | None
    usd: float | None
    spent: bool
    inside: int = 0
    failed: int = 0
    error: str | None = None


@dataclass(frozen=True)
class Timeline:
    """The rows of a run, and what the axis says.

    Attributes:
        rows: In the order in which things began, those inside after each; the first `MOST`.
        ticks: Where, in percent, and how many seconds after the beginning.
        count: How many rows there would be without that.
    """

    rows: tuple[Row, ...]
    ticks: tuple[tuple[float, str], ...]
    count: int


def timeline(run: Run, costs: Mapping[str, Cost], inside: Node | None = None) -> Timeline:
    """What `run` looks like; or something `inside` it, on an axis of its own."""
    nodes = [*_every(run.children if inside is None else (inside,), 0)]
    times = [t for node, _ in nodes for t in _times(node)]
    if inside is None or not times:
        # A time on a queue before that would be an empty axis.
        queued = timedelta(seconds=(run.queued or 0) if times else 0)
        times.append((run.created + queued, _end(run)))
    begin, end = min(at for at, _ in times), max(until for _, until in times)
    whole = max((end - begin).total_seconds(), 0.001)
    sums, deepest = _sums(costs), _deepest([depth for _, depth in nodes], inside is not None)
    fitting = [(node, depth) for node, depth in nodes if depth <= deepest]
    shown = fitting[:MOST]
    ids = {id(node) for node, _ in shown}
    errors = (error_of_its_own(node, lambda inside: id(inside) in ids) for node, _ in shown)
    rows = tuple(
        _with_left_out(_row(node, depth, begin, whole, sums, error), depth == deepest)
        for (node, depth), error in zip(shown, errors, strict=True)
    )
    ticks = tuple((n * 25.0, seconds(whole * n / 4)) for n in range(5))
    return Timeline(rows, ticks, len(fitting))


def _deepest(depths: list[int], is_inside: bool) -> int:
    """How deep things may lie that are shown: `FEW` rows, but what is looked into is seen."""
    deepest = max(depths, default=0)
    while deepest > is_inside and sum(depth <= deepest for depth in depths) > FEW:
        deepest -= 1
    return deepest


def _with_left_out(row: Row, is_deepest: bool) -> Row:
    if not is_deepest:
        return row
    left_out = [node for node, _ in _every(row.node.children, 0)]
    failed = sum(node.state == "failed" for node in left_out)
    return replace(row, inside=len(left_out), failed=failed)


def _every(nodes: tuple[Node, ...], depth: int) -> Iterator[tuple[Node, int]]:
    for node in nodes:
        yield node, depth
        yield from _every(node.children, depth + 1)


def _times(node: Node) -> Iterator[tuple[datetime, datetime]]:
    if node.started is not None:
        yield node.started, node.started + timedelta(seconds=node.seconds or 0)


def _end(run: Run) -> datetime:
    return run.created + timedelta(seconds=run.seconds or 0)


def _sums(costs: Mapping[str, Cost]) -> dict[str, float | None]:
    """By place, what all in it has cost; None where a price is not known."""
    sums: dict[str, float | None] = {}
    for path, cost in costs.items():
        place = ""
        for part in path.split("/"):
            place = f"{place}/{part}" if place else part
            before = sums.get(place, 0.0)
            sums[place] = None if None in (before, cost.usd) else (before or 0) + (cost.usd or 0)
    return sums


def _row(
    node: Node,
    depth: int,
    begin: datetime,
    whole: float,
    sums: Mapping[str, float | None],
    error: str | None,
) -> Row:
    left = width = None
    if node.started is not None:
        width = min(100.0, max(_LEAST, (node.seconds or 0) / whole * 100))
        left = min((node.started - begin).total_seconds() / whole * 100, 100 - width)
    spent = node.path in sums
    usd = sums.get(node.path, 0.0)
    return Row(node, depth, _look(node), left, width, usd, spent, error=error)


def _look(node: Node) -> str:
    if node.state == "failed":
        return "failed"
    if node.kind == "person" or node.state == "waiting":
        return "waits"
    return "replayed" if node.replayed else node.state


def seconds(count: float | None) -> str:
    """A time, as short as it can be read."""
    if count is None:
        return ""
    if count == 0:
        return "0 s"
    if count < 0.95:
        return f"{max(count * 1000, 1):.0f} ms"
    if count < 10:
        return f"{count:.1f} s"
    if count < 120:
        return f"{count:.0f} s"
    if count < 7200:
        return f"{count / 60:.0f} min"
    return f"{count / 3600:.0f} h" if count < 172_800 else f"{count / 86_400:.0f} d"
