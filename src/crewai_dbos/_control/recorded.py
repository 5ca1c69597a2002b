"""The entries of a run by place, as forks need them: each place has entries, and places in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dbos import Serializer

from crewai_dbos._dbos_seam.rows import RecordedRow
from crewai_dbos._journal import payload as payloads
from crewai_dbos._journal.entry import Entry, read_entry, split_name
from crewai_dbos._stored import names
from crewai_dbos.errors import SealedError


@dataclass(eq=False)
class Item:
    """Something right below a path: an entry, a place with entries in it, or both.

    Attributes:
        name: Its whole name.
        entry: The entry of this name; None of a place that has no result of its own.
        entries: This one, and those below, in the order of their step ids.
    """

    name: str
    entry: Entry | None = None
    entries: list[Entry] = field(default_factory=list)

    @property
    def last_part(self) -> str:
        return self.name.rpartition("/")[2]

    @property
    def first(self) -> int:
        return self.entries[0].step_id

    @property
    def last(self) -> int:
        """The step id of its end. Saves of memory and handlers of events may come later."""
        inside = len(self.name)
        own = [e for e in self.entries if not _BESIDE.search(e.name, inside)]
        return (own or self.entries)[-1].last_id

    @property
    def is_concurrent(self) -> bool:
        """Whether it may have happened beside others: it is named by its content."""
        if self.entry is not None and self.entry.background:
            return False  # nothing says what it came after
        what = self.last_part.rpartition("#")[0]
        by_content = names.without_digest(what) != what
        return by_content or (self.entry is not None and self.entry.concurrent)

    @property
    def call(self) -> str:
        """The call that it belongs to: hooks and approvals of a tool call are a part of it."""
        return _AROUND.sub("", self.last_part.rpartition("#")[0])


_BESIDE = re.compile(rf"/(?:event:|{re.escape(names.MEMORY_SAVE)}\()")
_AROUND = re.compile(rf"^(?:around|asked|{names.APPROVAL}):(?=tool:)")


class Recorded:
    """The entries of a run.

    Args:
        run_id: Its id.
        rows: Its steps.
        serializer: That of the application.

    Attributes:
        entries: In the order of their step ids.
        outside: The step ids of what is no entry, nor pinned by one: a user's own steps.
    """

    def __init__(
        self, run_id: str, rows: Iterable[RecordedRow], serializer: Serializer | None
    ) -> None:
        self.run_id = run_id
        self._serializer = serializer
        self._contents: dict[str, Mapping[str, Any] | None] = {}
        self._items: dict[str, dict[str, Item]] = {}
        self.entries: list[Entry] = []
        others = []
        for row in rows:
            entry = read_entry(row)
            if entry is None:
                others.append(row.step_id)
            else:
                self.entries.append(entry)
                self._put(entry)
        self.by_name = {entry.name: entry for entry in self.entries}
        pinned = {n for entry in self.entries for n in _pinned_by(entry)}
        self.outside = [step_id for step_id in others if step_id not in pinned]

    def _put(self, entry: Entry) -> None:
        for name in _and_above(entry.name):
            path = name.rpartition("/")[0]
            item = self._items.setdefault(path, {}).setdefault(name, Item(name))
            item.entries.append(entry)
            if name == entry.name:
                item.entry = entry

    def at(self, path: str) -> list[Item]:
        """What is right below `path`."""
        return list(self._items.get(path, {}).values())

    def item(self, name: str) -> Item:
        return self._items[name.rpartition("/")[0]][name]

    def names(self) -> list[str]:
        """Of every entry and every place."""
        return [name for items in self._items.values() for name in items]

    def content(self, name: str) -> Mapping[str, Any] | None:
        """What the entry of this name holds; None if there is none that can be read.

        Raises:
            SealedError: It is encrypted, and there is no serializer that reads it.
        """
        if name not in self._contents:
            self._contents[name] = self._read(name)
        return self._contents[name]

    def _read(self, name: str) -> Mapping[str, Any] | None:
        entry = self.by_name.get(name)
        if entry is None or not entry.is_readable:
            return None
        try:
            opened = payloads.opened(entry.stored, self._serializer)
        except SealedError as error:
            raise SealedError(
                f"Run {self.run_id!r} can't be forked by place, as {name} says what depends on "
                f"what and can't be read: {error}. Pass it on: Control(url, serializer=...)"
            ) from None
        return opened if payloads.is_payload(opened) else None

    def steps_of(self, entries: Iterable[str]) -> list[int]:
        """The ids of these entries, and of what they have pinned."""
        found = [self.by_name[name] for name in entries]
        return [n for entry in found for n in (entry.step_id, *_pinned_by(entry))]


def what_of(name: str) -> str:
    """The last part of a name, without its number."""
    found = split_name(name)
    return name if found is None else found[1]


def _pinned_by(entry: Entry) -> range:
    return range(entry.step_id + 1, entry.last_id + 1)


def _and_above(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition("/")[0]
