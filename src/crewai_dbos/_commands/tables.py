"""What the commands print for people: as wide as the terminal, and every id whole.

Where a terminal is too narrow, columns give way one after another, and what explains a row stands
in lines of its own below it. A command in that has a line to itself, so that it can be copied
whole. In a pipe or a file there is no width: each row is one line, whole.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from crewai_dbos import _command_lines

_ANY_WIDTH, _ANY_HEIGHT = 100_000, 100
_GAP = 2
_READABLE = 60
"""An explanation stands beside its row if there are so many characters for it, or enough."""
_LEAST = 20
"""So many characters a line of an explanation has, however narrow the terminal is."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its heading.
        rank: When it gives way: that with the greatest first, with 0 never.
        least: To how many characters what is in it may be cut; None for not at all.
        is_number: Whether it stands on the right.
    """

    name: str
    rank: int = 0
    least: int | None = None
    is_number: bool = False


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        cells: One for each column.
        note: What explains it.
        under: What the lines below it begin with.
    """

    cells: Sequence[Text]
    note: Text
    under: str


@dataclass
class Table:
    """A table that fits: see `Column`, and `Row.note`.

    Attributes:
        columns: All that there might be. One with nothing in it is left out.
        note: The heading of the notes, where these stand beside their rows.
        is_whole: Whether notes are whole in any terminal, or are cut to a line.
        has_heading: Whether it has a line of headings.
    """

    columns: Sequence[Column]
    note: str
    is_whole: bool = False
    has_heading: bool = True
    rows: list[Row] = field(default_factory=list)

    def row(self, *cells: str | Text, note: str | Text = "", under: str = "  ") -> None:
        """Add a row."""
        self.rows.append(Row([_text(cell) for cell in cells], _text(note), under))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        widths = self._widths(width)
        if widths is None:
            yield from self._one_below_the_other(console, width)
            return
        room = width - _sum(widths.values()) - _GAP
        longest = max((row.note.cell_len for row in self.rows), default=0)
        beside = 0 < longest <= room or (room >= _READABLE and not self.is_whole)
        if self.has_heading:
            heading = [Text(self.columns[each].name) for each in widths]
            told = Text(self.note if beside and longest else "")
            line = self._line(widths, heading, told)
            line.stylize("bold")
            yield line
        for row in self.rows:
            cells = [row.cells[each] for each in widths]
            note = row.note.copy() if beside else Text()
            note.truncate(max(1, room), overflow="ellipsis")
            yield self._line(widths, cells, note)
            if not beside:
                yield from self._below(console, row, width)

    def _widths(self, width: int) -> dict[int, int] | None:
        """How wide each column is that there is room for; None if there is too little."""
        needed = {
            number: max([cell_len(column.name) * self.has_heading, *lengths])
            for number, column in enumerate(self.columns)
            if any(lengths := [row.cells[number].cell_len for row in self.rows])
        }
        least = {
            number: min(each, self.columns[number].least or each) for number, each in needed.items()
        }
        while _sum(least.values()) > width:
            last = max(least, key=lambda number: self.columns[number].rank, default=None)
            if last is None or self.columns[last].rank == 0:
                return None
            del least[last]
        spare = width - _sum(least.values())
        found = {}
        for number, each in least.items():
            found[number] = each + min(needed[number] - each, spare)
            spare -= found[number] - each
        return found

    def _line(self, widths: dict[int, int], cells: Sequence[Text], note: Text) -> Text:
        line = Text()
        for (number, width), cell in zip(widths.items(), cells, strict=True):
            made = cell.copy()
            made.truncate(width, overflow="ellipsis")
            made.align("right" if self.columns[number].is_number else "left", width)
            line.append_text(made).append(" " * _GAP)
        line.append_text(note)
        line.rstrip()
        return line

    def _below(self, console: Console, row: Row, width: int) -> Iterator[Text]:
        if not row.note.plain:
            return
        if self.is_whole:
            yield from _below(console, row.note, row.under, width)
        else:
            note = row.note.copy()
            note.truncate(_room(row.under, width), overflow="ellipsis")
            yield Text().append(row.under, "dim").append_text(note)

    def _one_below_the_other(self, console: Console, width: int) -> Iterator[Text]:
        """The first cell of each row, which may be longer than a line, and the others below it."""
        for row in self.rows:
            first, *others = row.cells
            yield first.copy()
            told = Text(" " * _GAP).join(cell for cell in others if cell.plain)
            yield from _below(console, told, row.under, width)
            yield from self._below(console, row, width)


@dataclass(frozen=True)
class Facts:
    """Lines of a name and a value. A value that is too long goes on below itself.

    Attributes:
        facts: These. One without a value is left out.
    """

    facts: Sequence[tuple[str, str | Text | None]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        told = [(name, _text(value)) for name, value in self.facts if value]
        widest = max((cell_len(name) for name, _ in told), default=0)
        for name, value in told:
            begin = name.rjust(widest) + " " * _GAP
            yield from _below(console, value, begin, options.max_width, " " * (widest + _GAP))


def console() -> Console:
    """Where people read: as wide as their terminal, or as COLUMNS says; else without a width."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return Console(highlight=False, width=int(columns))
    if not sys.stdout.isatty():  # rich takes FORCE_COLOR for a terminal
        return Console(highlight=False, width=_ANY_WIDTH, height=_ANY_HEIGHT)
    # rich follows a window that changes, but takes COLUMNS=0 as a width.
    return Console(highlight=False, width=shutil.get_terminal_size().columns if columns else None)


def show(where: Console, what: RenderableType) -> None:
    """Print it; what is longer than a line by itself, as an id may be, the terminal breaks."""
    where.print(what, crop=False, no_wrap=True, overflow="ignore")


def _text(given: str | Text) -> Text:
    made = Text(given) if isinstance(given, str) else given.copy()
    made.expand_tabs(1)
    return made


def _sum(widths: Iterable[int]) -> int:
    every = list(widths)
    return sum(every) + _GAP * max(0, len(every) - 1)


def _room(begin: str, width: int) -> int:
    return max(_LEAST, width - cell_len(begin))


def _below(
    console: Console, text: Text, begin: str, width: int, then: str | None = None
) -> Iterator[Text]:
    """`text` in lines. One begins with the first column and is not broken if it is a command.

    Args:
        console: Where it goes.
        text: What is told.
        begin: What is before it in its first line.
        width: How wide the lines are.
        then: What is before it in the others; None for the same.
    """
    room = _room(begin, width)
    for piece, is_command in [(text, False)] if text.cell_len <= room else _pieces(text):
        if is_command:
            if then is not None and begin != then:
                yield Text(begin.rstrip(), "dim")
                begin = then
            yield piece
            continue
        for line in _wrapped(console, piece, room):
            yield Text().append(begin, "dim").append_text(line)
            begin = begin if then is None else then


def _wrapped(console: Console, text: Text, room: int) -> Iterator[Text]:
    """`text` in lines. A word that is longer stands alone, whole, as it may be an id."""
    plain, end = text.plain, 0
    for word in re.finditer(rf"\s*([!-~]{{{room + 1},}})\s*|\Z", plain):
        if end < word.start():
            for line in text[end : word.start()].wrap(console, room, overflow="fold"):
                line.rstrip()
                yield line
        if word[1]:
            yield text[word.start(1) : word.end(1)]
        end = word.end()


def _pieces(text: Text) -> Iterator[tuple[Text, bool]]:
    """`text`, and whether it is a command, piece by piece, without the marks around commands."""
    plain, end = text.plain, 0
    for start, stop in [*_command_lines.places_in(plain), (len(plain), len(plain))]:
        before = plain[end:start].rstrip()
        if plain[stop : stop + 1] == ")":
            before = before.removesuffix("(").rstrip()
        skipped = len(before) - len(before.lstrip(".,:;) ")) if end else 0
        if before[skipped:]:
            yield text[end + skipped : end + len(before)], False
        if start < stop:
            yield text[start:stop], True
        end = stop
