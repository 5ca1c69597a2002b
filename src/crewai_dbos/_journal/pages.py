"""The contents of a run's entries, read from its database when they are asked for, page by page.

What is recorded near each other is asked for together: calls in one place follow one another, and
places that were at work side by side may be replayed one after the other. So a page holds what is
under a path before what is beside it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from crewai_dbos._dbos_seam.rows import RowHead, as_json, row_heads, row_texts
from crewai_dbos._journal.execution import Execution
from crewai_dbos._journal.head import LENGTH, Head, head_in, head_of
from crewai_dbos.errors import JournalCorruptError

SHORT = 2_000
"""The longest text that is read with the heads."""

MOST_SHORT = 4_000_000
"""How much of them is kept, all together: a run of some hundred calls is read at once."""

PAGE = 500_000
"""How much is read at once, later."""

MOST_ROWS = 500
"""Of a page."""

_ODD = 50
"""Of rows that have to be read when the run is opened."""

MOST_HELD = 16_000_000
"""How much of what was read is held for those who ask next."""


class Pages:
    """The contents of the entries of one execution. Threads share it.

    Args:
        execution: Whatever goes wrong in reading ends the run.
    """

    def __init__(self, execution: Execution) -> None:
        self._run_id = execution.run_id
        self._execution = execution
        self._lock = threading.Lock()
        self._names: dict[int, str] = {}
        self._sizes: dict[int, int] = {}
        self._short: dict[int, str] = {}
        self._pages: list[list[int]] = []
        self._page_of: dict[int, int] = {}
        self._held: OrderedDict[int, dict[int, str]] = OrderedDict()
        self._size = 0
        self._let_go: set[int] = set()

    def open(self) -> Iterator[tuple[RowHead, Head | None]]:
        """What is recorded, in the order of step ids, as far as it is known without contents."""
        rows = row_heads(self._run_id, length=LENGTH, short=SHORT, most=MOST_SHORT)
        heads = {row.step_id: head_in(row.text) for row in rows if row.text is not None}
        odd = [row for row in rows if row.step_id in heads and heads[row.step_id] is None]
        heads |= {row.step_id: head_of(as_json(row.text)) for row in odd if row.is_whole}
        # Of another form, or somebody else's. Ours have a number at the end of their names.
        left = [row.step_id for row in odd if not row.is_whole and "#" in row.name]
        for start in range(0, len(left), _ODD):
            texts = row_texts(self._run_id, left[start : start + _ODD])
            heads |= {step_id: head_of(as_json(text)) for step_id, (_, text) in texts.items()}
        for row in rows:
            yield row, heads.get(row.step_id)

    def add(self, row: RowHead) -> None:
        """Have the content of `row` to give, if it has any."""
        if row.text is None:
            return
        self._names[row.step_id] = row.name
        self._sizes[row.step_id] = row.size
        if row.is_whole:
            self._short[row.step_id] = row.text

    def stored(self, step_id: int) -> Any:
        """The JSON data of an entry; None if it has none.

        Raises:
            ControlSignal: It could not be asked for; or the entry is gone, or the run.
        """
        if step_id not in self._names:
            return None
        text = self._short.get(step_id)
        return as_json(self._text(step_id) if text is None else text)

    def is_at_hand(self, step_id: int) -> bool:
        """Whether the content can be had without asking the database, as things are now."""
        is_known = step_id in self._short or step_id not in self._names
        return is_known or self._page_of.get(step_id) in self._held

    def _text(self, step_id: int) -> str:
        with self._lock:
            if not self._pages:
                self._divide()
            number = self._page_of[step_id]
            if number in self._held:
                self._held.move_to_end(number)
                found = self._held[number].get(step_id)
            elif number in self._let_go:  # more is at work side by side than is held
                found = self._read([step_id]).get(step_id)
            else:
                found = self._hold(number).get(step_id)
        if found is None:
            self._execution.check(surely=True)
            self._execution.latch.fail(
                JournalCorruptError(
                    f"Run {self._run_id}: the journal entry {self._names[step_id]} is not there "
                    "any more. Fork the run from its step to make that call again, and all after "
                    f"it: DBOS.fork_workflow({self._run_id!r}, {step_id})"
                )
            )
        return found

    def _hold(self, number: int) -> dict[int, str]:
        page = self._held[number] = self._read(self._pages[number])
        self._size += _size(page)
        while len(self._held) > 1 and self._size > MOST_HELD:
            gone, let_go = self._held.popitem(last=False)
            self._size -= _size(let_go)
            self._let_go.add(gone)
        return page

    def _read(self, step_ids: list[int]) -> dict[int, str]:
        try:
            texts = row_texts(self._run_id, step_ids)
        except Exception as error:
            self._execution.latch.fail(error)
        # Another execution may have recorded something else by that number.
        return {n: text for n, (name, text) in texts.items() if name == self._names[n]}

    def _divide(self) -> None:
        """Make pages of what is not short."""
        size = 0
        for step_id in sorted(self._names.keys() - self._short.keys(), key=self._place_of()):
            if not self._pages or size >= PAGE or len(self._pages[-1]) >= MOST_ROWS:
                self._pages.append([])
                size = 0
            self._pages[-1].append(step_id)
            self._page_of[step_id] = len(self._pages) - 1
            size += self._sizes[step_id]

    def _place_of(self) -> Callable[[int], tuple[int, ...]]:
        """By what entries are sorted: when each path began that one is in, the outermost first."""
        began: dict[str, int] = {}
        for step_id, name in sorted(self._names.items()):
            while (name := name.rpartition("/")[0]) and name not in began:
                began[name] = step_id

        def place(step_id: int) -> tuple[int, ...]:
            path, found = self._names[step_id], [step_id]
            while path := path.rpartition("/")[0]:
                found.append(began[path])
            return tuple(reversed(found))

        return place


def _size(page: dict[int, str]) -> int:
    return sum(map(len, page.values()))
