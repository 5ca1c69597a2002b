"""What a run has done, as the tree of nodes that people see: its entries, and what else it did."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crewai_dbos._control import texts
from crewai_dbos._control.run import Node, Run, State
from crewai_dbos._control.taken_over import is_taken_over
from crewai_dbos._control.texts import SEALED
from crewai_dbos._dbos_seam.database import ALIVE, PENDING
from crewai_dbos._dbos_seam.rows import RecordedRow, as_json
from crewai_dbos._dbos_seam.stored_contents import StoredStep
from crewai_dbos._dbos_seam.stored_runs import StoredRun
from crewai_dbos._events.event import Event
from crewai_dbos._journal.entry import Entry, read_entry, split_name
from crewai_dbos._requests.reading import Outline
from crewai_dbos._requests.request import at
from crewai_dbos._stored import names
from crewai_dbos._stored.sealing import Open
from crewai_dbos._stored.usage import Tokens, spent_in
from crewai_dbos.errors import SealedError

_KEEPING = frozenset(
    {
        names.ABANDONED,
        names.CACHE,
        names.DEFINITION,
        names.END,
        names.METHOD_END,
        names.PIN,
        names.SESSION,
        names.STATE,
        names.TOKEN_COUNT,
        names.WORK_ORDER,
    }
)
"""Entries that the journal keeps for itself. They say when their place began or ended."""

_PLACES = ("agent", "around", "crew", "flow", "method", "task", "todo")
"""What only has others inside; every other name is that of an entry, once it has ended."""


@dataclass
class _Place:
    """A part of a path, with what is known of it.

    Attributes:
        path: The whole of it.
        what: Its last part, less the occurrence.
        occurrence: Which one of that name.
        entry, step: What is recorded under it.
        asked: What is asked of people there, if it can still be answered.
        begun: The event in which it has begun, of what has not ended.
        marks: What is recorded of it by the journal itself.
        inside: By their names.
        others: What is no place in the journal, by step: child runs, steps of the user's own.
    """

    path: str
    what: str = ""
    occurrence: int = 1
    entry: Entry | None = None
    step: StoredStep | None = None
    asked: Outline | None = None
    begun: Event | None = None
    marks: list[tuple[Entry, StoredStep]] = field(default_factory=list)
    inside: dict[str, _Place] = field(default_factory=dict)
    others: list[tuple[float, Node]] = field(default_factory=list)

    def at(self, path: str) -> _Place:
        """The place under this one."""
        found = self
        for part in path.split("/") if path else ():
            if part not in found.inside:
                _, what, number = split_name(part) or ("", part, 1)
                whole = f"{found.path}/{part}" if found.path else part
                found.inside[part] = _Place(whole, what, number)
            found = found.inside[part]
        return found

    @property
    def first(self) -> float:
        """The least number of a step in it: a call gets its number when it begins."""
        return min(self._numbers(), default=math.inf)

    @property
    def last(self) -> float:
        """The greatest number of a step in it."""
        return max(self._numbers(), default=0)

    def _numbers(self) -> Iterator[float]:
        if self.step is not None:
            yield self.step.step_id
        yield from (step.step_id for _, step in self.marks)
        yield from (number for number, _ in self.others)
        for place in self.inside.values():
            yield from place._numbers()

    @property
    def kind(self) -> str:
        if self.entry is not None and self.entry.kind:
            return self.entry.kind
        if self.begun is not None:
            return self.begun.type.partition(".")[0]
        return "person" if self.asked is not None else re.split(r"[:(]", self.what)[0]

    @property
    def name(self) -> str:
        what = names.without_digest(self.what)
        return what if self.occurrence == 1 else f"{what}#{self.occurrence}"


def nodes(
    row: StoredRun,
    state: State,
    steps: Sequence[StoredStep],
    asked: Sequence[Outline],
    at_work: Sequence[Event],
    children: Sequence[Run],
    opened: Open,
) -> tuple[Node, ...]:
    """What a run has done.

    Args:
        row: The run.
        state: How it stands.
        steps: What DBOS has stored of it.
        asked: What it has asked people.
        at_work: The events of what has begun and not ended in it.
        children: The runs that it has started.
        opened: Reads what is sealed.
    """
    root = _Place("")
    last = _fill(root, steps, {child.run_id: child for child in children}, row)
    for each in asked:
        if each.state == "open" and (place := root.at(each.name)).entry is None:
            # Of a run that has ended nobody waits for the answer any more.
            place.asked = each if row.status in ALIVE else None
    for event in at_work:
        if event.path and (place := root.at(event.path)).entry is None:
            place.begun = event
    since = {each.name: each.created_ms for each in asked}
    made = _Maker(row, state, last, since, opened).inside(root)
    own = [node for node in made if node.kind in ("agent", "crew", "flow") and not node.error]
    # A run of a crew is that crew.
    return made[0].children if len(made) == len(own) == 1 and _is_own(row, made[0]) else made


def _is_own(row: StoredRun, node: Node) -> bool:
    return row.name in names.WORKFLOWS and row.name.partition(".")[2].startswith(node.kind)


def _fill(
    root: _Place, steps: Sequence[StoredStep], children: dict[str, Run], row: StoredRun
) -> str:
    """Put all that is recorded where it belongs.

    Returns:
        The path of the last entry.
    """
    last, pinned, until = "", "", 0
    for step in steps:
        entry = read_entry(RecordedRow(step.step_id, step.name, as_json(step.output)))
        if entry is None:
            place = root.at(pinned) if step.step_id <= until else root
            if step.child is None:
                place.others.append((step.step_id, _own_step(place.path, step, row)))
            elif (child := children.pop(step.child, None)) is not None:
                place.others.append((step.step_id, _child(child)))
            continue
        last = entry.name
        if entry.what == names.PIN:
            pinned, until = entry.path, entry.last_id
        if entry.what in _KEEPING or entry.kind == "asked":
            root.at(entry.path).marks.append((entry, step))
        else:
            place = root.at(entry.name)
            place.entry, place.step = entry, step
    root.others += [(math.inf, _child(child)) for child in children.values()]
    return last


def _child(run: Run) -> Node:
    return Node(
        path=run.run_id,
        name=run.run_id,
        kind=run.kind,
        state=run.state,
        started=run.started,
        seconds=run.seconds,
        tokens=run.tokens,
        error=run.error,
    )


def _own_step(path: str, step: StoredStep, row: StoredRun) -> Node:
    """A step that is none of ours: of the user's workflow, or of DBOS."""
    taken_over = is_taken_over(row, step.ended_ms)
    return Node(
        path=f"{path}/{step.name}" if path else step.name,
        name=step.name,
        kind="dbos" if step.name.startswith("DBOS.") else "step",
        state="done" if step.error is None else "failed",
        started=None if taken_over else at(step.started_ms),
        seconds=_seconds(_Span(step.started_ms), step.ended_ms),
        replayed=_is_replayed(step, row),
        taken_over=taken_over,
        error=None if step.error is None else texts.of_run(step.error, _unopened),
    )


def _unopened(_: Any) -> Any:
    raise SealedError(SEALED)


def _is_replayed(step: StoredStep, row: StoredRun) -> bool:
    """Whether it was recorded before the execution that went on last had begun."""
    if is_taken_over(row, step.ended_ms):
        return True
    if row.started_ms is None or step.ended_ms is None:
        return False
    return step.ended_ms < row.started_ms


@dataclass(frozen=True)
class _Span:
    """From when until when."""

    started_ms: int | None = None
    ended_ms: int | None = None

    def __or__(self, other: _Span) -> _Span:
        starts = [t for t in (self.started_ms, other.started_ms) if t is not None]
        ends = [t for t in (self.ended_ms, other.ended_ms) if t is not None]
        return _Span(min(starts, default=None), max(ends, default=None))


@dataclass(frozen=True)
class _Maker:
    """Makes nodes of the places of a run.

    Attributes:
        row: The run.
        state: How it stands.
        last: The path of its last entry: what has that inside has not ended, if the run has not.
        since: By name of an entry, when a person was asked.
        opened: Reads what is sealed.
    """

    row: StoredRun
    state: State
    last: str
    since: Mapping[str, int]
    opened: Open

    def inside(self, place: _Place) -> tuple[Node, ...]:
        """What is in a place, in the order in which it began."""
        found = [*place.others]
        for each in place.inside.values():
            if each.what.startswith("around:"):
                found += [(each.first, node) for node in self.inside(each)]
            else:
                found.append((each.first, self._node(each)))
        return tuple(node for _, node in sorted(found, key=lambda pair: pair[0]))

    def _node(self, place: _Place) -> Node:
        children = self.inside(place)
        error = self._error(place)
        state = self._state(place, children, error)
        span = self._span(place)
        ended_ms = self.row.now_ms if state in ("running", "waiting") else span.ended_ms
        entry, step = place.entry, place.step
        edited_by, edited_ms = _edited(place)
        known = [(child.replayed, child.taken_over) for child in children]
        own = [] if step is None else [step]
        if not (own or known):  # a method without calls is known by its end
            own = [end for mark, end in place.marks if mark.what == names.METHOD_END]
        known += [(_is_replayed(s, self.row), is_taken_over(self.row, s.ended_ms)) for s in own]
        return Node(
            path=place.path,
            name=place.name,
            kind=place.kind,
            state=state,
            started=at(span.started_ms),
            seconds=_alone(entry, step) if span.started_ms is None else _seconds(span, ended_ms),
            tokens=sum((child.tokens for child in children), _tokens(entry)),
            replayed=bool(known) and all(replayed for replayed, _ in known),
            taken_over=bool(known) and all(taken_over for _, taken_over in known),
            error=error,
            attempts=1 if entry is None else _attempts(entry),
            edited_by=edited_by,
            edited=at(edited_ms),
            children=children,
        )

    def _span(self, place: _Place) -> _Span:
        """From when until when something in a place was recorded, or a person asked.

        What a fork has taken over happened in another run, at its times, so it is left out.
        """
        found = _Span() if place.asked is None else _Span(place.asked.created_ms)
        if place.begun is not None:
            found |= _Span(int(place.begun.at.timestamp() * 1000))
        rows = [step for _, step in place.marks]
        if place.step is not None:
            rows.append(place.step)
        own = [step for step in rows if not is_taken_over(self.row, step.ended_ms)]
        for step in own:
            found |= _Span(step.started_ms, step.ended_ms)
        if place.entry is not None and place.step in own:
            # DBOS knows of a call with calls inside when it has ended, or not when it began.
            found |= _Span(_began(place.entry, place.step))
        asked = self.since.get(place.path)
        # A run that was left to its row asks again when it is woken. The clock of a database may
        # have whole seconds only.
        if asked is not None and found.started_ms is not None and found.started_ms - asked > 1000:
            found |= _Span(asked)
        for each in place.inside.values():
            found |= self._span(each)
        return found

    def _state(self, place: _Place, children: Sequence[Node], error: str | None) -> State:
        if error is not None or _has_failed_in_its_agent(place, children):
            return "failed"
        marks = {entry.what for entry, _ in place.marks}
        # Work whose program was being stopped is marked so, too, and goes on.
        if place.last in [s.step_id for e, s in place.marks if e.what == names.ABANDONED]:
            return "cancelled"
        if self.state == "done" or place.entry is not None or names.METHOD_END in marks:
            return "done"
        if place.asked is not None or any(child.state == "waiting" for child in children):
            return "waiting"
        if place.begun is None and not self._is_open(place, children):
            return "done"
        at_work = self.state == "waiting" and self.row.status == PENDING
        return "running" if at_work else self.state

    def _is_open(self, place: _Place, children: Sequence[Node]) -> bool:
        """Whether something in a place has not ended, in a run that has not ended well.

        Of a task or an agent nothing is recorded when it ends, but what comes after it.
        """
        kind = re.split(r"[:(]", place.what)[0]
        if kind == "method" or kind not in _PLACES:
            return True
        return self.last.startswith(f"{place.path}/") or any(_is_unended(c) for c in children)

    def _error(self, place: _Place) -> str | None:
        if place.entry is not None:
            return _error_in(place.entry, self.opened)
        ends = [entry for entry, _ in place.marks if entry.what in (names.END, names.METHOD_END)]
        errors = (_error_in(entry, self.opened) for entry in ends)
        return next((error for error in errors if error is not None), None)


_NO_CALLS = (*_PLACES, "person", "batch", "workflow", "dbos")


def seconds_in_calls(nodes: Sequence[Node]) -> float:
    """For how long one of the calls in these was being made; calls beside each other count once."""
    total, until = 0.0, -math.inf
    for begin, end in sorted(_calls(nodes)):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return round(total, 3)


def _calls(nodes: Sequence[Node]) -> Iterator[tuple[float, float]]:
    """When each began and ended."""
    for node in nodes:
        yield from _calls(node.children)
        if not node.children and node.kind not in _NO_CALLS and node.started is not None:
            begin = node.started.timestamp()
            yield begin, begin + (node.seconds or 0)


def _is_unended(node: Node) -> bool:
    return node.state in ("running", "interrupted", "waiting") or any(
        _is_unended(c) for c in node.children
    )


def _has_failed_in_its_agent(place: _Place, children: Sequence[Node]) -> bool:
    """Of a task nothing is recorded when it ends; crewAI gives it up with its last agent."""
    agents = [node for node in children if node.kind == "agent"]
    return place.kind == "task" and bool(agents) and agents[-1].state == "failed"


def _error_in(entry: Entry, opened: Open) -> str | None:
    """The error in an entry; of one that can't be read only whether there is one."""
    if not entry.is_readable:
        return None
    stored: Mapping[str, Any] = entry.stored
    if "sealed" in stored:
        try:
            content = opened(stored["sealed"])
        except SealedError:
            return SEALED if stored.get("failed") else None
        stored = content if isinstance(content, Mapping) else {}
    return texts.of_json(stored.get("error"))


def _tokens(entry: Entry | None) -> Tokens:
    spent = () if entry is None else spent_in(entry.stored)
    return sum((each.tokens for each in spent), Tokens())


def _attempts(entry: Entry) -> int:
    found = entry.stored.get("attempts", 1) if entry.is_readable else 1
    return int(found)


def _edited(place: _Place) -> tuple[str | None, int | None]:
    """Who has given the result of a place, and when; that of a task stands in it."""
    given = place.inside.get(names.numbered("", names.EDITED, 1))
    ends = [entry for entry, _ in place.marks if entry.what == names.METHOD_END]
    for entry in (place.entry, None if given is None else given.entry, *ends):
        mark = entry.stored.get("edited") if entry is not None and entry.is_readable else None
        if isinstance(mark, Mapping):
            by, ms = mark.get("by"), mark.get("ms")
            return str(by), ms if isinstance(ms, int) else None
    return None, None


def _told(entry: Entry | None) -> float | None:
    """How long the call of an entry took, by itself."""
    found = entry.stored.get("seconds") if entry is not None and entry.is_readable else None
    return float(found) if isinstance(found, (int, float)) else None


def _alone(entry: Entry | None, step: StoredStep | None) -> float | None:
    """How long a call took of which it is not known when, or which was made in another run."""
    told = _told(entry)
    if told is not None or step is None:
        return told
    return _seconds(_Span(step.started_ms), step.ended_ms)


def _began(entry: Entry, step: StoredStep) -> int | None:
    """When the call of an entry began, where DBOS does not say it."""
    seconds = _told(entry)
    if step.ended_ms is None or seconds is None:
        return step.ended_ms
    return step.ended_ms - int(seconds * 1000)


def _seconds(span: _Span, ended_ms: int | None) -> float | None:
    if span.started_ms is None or ended_ms is None:
        return None
    return max(0, ended_ms - span.started_ms) / 1000
