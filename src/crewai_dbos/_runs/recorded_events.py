"""The events of what is recorded, for those who have not heard of it while it went on."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from crewai_dbos._dbos_seam.rows import recorded_times
from crewai_dbos._events import event as events
from crewai_dbos._events.event import Fact, Key
from crewai_dbos._events.writing import now_ms
from crewai_dbos._journal.entry import Entry
from crewai_dbos._stored import names
from crewai_dbos._stored.usage import tokens_of

_PLACE = re.compile(rf"({'|'.join(events.PLACES)}):")


class FromRecord:
    """Makes the events of recorded entries, in the order in which they were recorded.

    Args:
        run_id: The run.
        kinds: The kinds of the entries, by name.
    """

    def __init__(self, run_id: str, kinds: Mapping[str, str]) -> None:
        self._run_id = run_id
        self._kinds = kinds
        self._times = recorded_times(run_id)
        self._begun: dict[str, str] = {}
        self._outcomes: dict[str, Mapping[str, Any]] = {}

    def of(self, entry: Entry) -> Iterator[Fact]:
        """The events of `entry`, and of the places that it shows to have begun or ended."""
        at = self._times.get(entry.name) or now_ms()
        payload = payload_of(entry)
        before = at - int(float(payload.get("seconds") or 0) * 1000)
        for path in above(entry.path):
            yield from self._begins(path, before)
        yield from self._begins(entry.name, before)
        # What a result stands for is not gone into any more.
        inside = entry.path if entry.what in _LAST else entry.name
        if entry.what in _LAST:
            told = {} if entry.what == names.ABANDONED else outcome(payload)
            self._outcomes[entry.path] = told
        for path in [path for path in reversed(self._begun) if path.startswith(f"{inside}/")]:
            yield from self._ends(path, at, self._outcome_of(path))
        yield from self._ends(entry.name, at, outcome(payload))

    def _begins(self, name: str, at: int) -> Iterator[Fact]:
        if name in self._begun:
            return
        kind = self._kinds.get(name)
        if kind not in events.OF_KIND or kind in events.PLACES:  # an end of a method is of its kind
            kind = _kind_of_place(name)
        if kind is not None:
            self._begun[name] = kind
            yield self._fact(events.OF_KIND[kind][0], name, at, {})

    def _ends(self, name: str, at: int, data: Mapping[str, Any]) -> Iterator[Fact]:
        kind = self._begun.get(name)
        if kind is not None:
            yield self._fact(events.OF_KIND[kind][1], name, at, data)

    def _outcome_of(self, place: str) -> Mapping[str, Any]:
        """How a place ended; nothing if something failed in it, and it does not say how it did."""
        if place in self._outcomes:
            return self._outcomes[place]
        inside = [told for path, told in self._outcomes.items() if path.startswith(f"{place}/")]
        return {"status": "done"} if all(t.get("status") == "done" for t in inside) else {}

    def _fact(self, type_: str, path: str, at: int, data: Mapping[str, Any]) -> Fact:
        return Fact(self._run_id, Key(type_, path), at, {**data, "recorded": True})


_LAST = (names.METHOD_END, names.END, names.ABANDONED)
"""What is recorded last in a place. The place itself is entered again, and left."""


def above(path: str) -> list[str]:
    """The paths that `path` is in, and it; the outermost first."""
    found = []
    while path:
        found.append(path)
        path = path.rpartition("/")[0]
    return found[::-1]


def _kind_of_place(path: str) -> str | None:
    match = _PLACE.match(path.rpartition("/")[2])
    return match[1] if match else None


def payload_of(entry: Entry) -> Mapping[str, Any]:
    try:
        return entry.payload()
    except Exception:  # encrypted with another key: the run is stopped where it asks for it
        with contextlib.suppress(Exception):
            if isinstance(stored := entry.stored, dict):
                return stored
        return {}


def outcome(payload: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of the end of a call, from what is recorded of it."""
    told: dict[str, Any] = {}
    if "error" in payload:
        path = str(payload["error"].get("type", ""))
        told.update(status="failed", error=re.split("[.:]", path)[-1])
    elif "result" in payload:
        told["status"] = "done"
    if "seconds" in payload:
        told["seconds"] = payload["seconds"]
    counts = asdict(tokens_of(payload.get("extra") or {}))
    if counts["requests"]:
        told["tokens"] = counts
    return told
