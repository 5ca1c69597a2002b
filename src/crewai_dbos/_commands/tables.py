"""What the commands print for people: as wide as the terminal, and every id whole.

Where a terminal is too narrow, columns give way one after another, and what explains a row stands
in lines of its own below it. In a pipe or a file there is no width: each row is one line, whole.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

_ANY_WIDTH = 100_000
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
        for line in self._lines(options.max_width):
            line.no_wrap, line.overflow = True, "ignore"
            yield line

    def _lines(self, width: int) -> Iterator[Text]:
        widths = self._widths(width)
        if widths is None:
            yield from self._one_below_the_other(width)
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
                yield from self._below(row, width)

    def _widths(self, width: int) -> dict[int, int] | None:
        """How wide each column is that there is room for; None if there is too little."""
        needed = {
            number: max([len(column.name) * self.has_heading, *lengths])
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

    def _below(self, row: Row, width: int) -> Iterator[Text]:
        if not row.note.plain:
            return
        room = max(_LEAST, width - len(row.under))
        if self.is_whole:
            for line in _wrapped(row.note, room):
                yield Text().append(row.under, "dim").append_text(line)
        else:
            note = row.note.copy()
            note.truncate(room, overflow="ellipsis")
            yield Text().append(row.under, "dim").append_text(note)

    def _one_below_the_other(self, width: int) -> Iterator[Text]:
        """The first cell of each row, which may be longer than a line, and the others below it."""
        for row in self.rows:
            first, *others = row.cells
            yield first.copy()
            told = Text(" " * _GAP).join(cell for cell in others if cell.plain)
            for line in _wrapped(told, max(_LEAST, width - len(row.under))):
                yield Text().append(row.under, "dim").append_text(line)
            yield from self._below(row, width)


@dataclass(frozen=True)
class Facts:
    """Lines of a name and a value. A value that is too long goes on below itself.

    Attributes:
        facts: These. One without a value is left out.
    """

    facts: Sequence[tuple[str, str | Text | None]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        told = [(name, _text(value)) for name, value in self.facts if value]
        widest = max((len(name) for name, _ in told), default=0)
        for name, value in told:
            begin = name.rjust(widest)
            for line in _wrapped(value, max(_LEAST, options.max_width - widest - _GAP)):
                whole = Text().append(begin, "dim").append(" " * _GAP).append_text(line)
                whole.no_wrap, whole.overflow = True, "ignore"
                yield whole
                begin = " " * widest


def console() -> Console:
    """Where people read: as wide as their terminal, or as COLUMNS says; else without a width."""
    made = Console(highlight=False)
    if not made.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        made.width = _ANY_WIDTH
    return made


def show(where: Console, what: RenderableType) -> None:
    """Print it; what is longer than a line by itself, as an id may be, the terminal breaks."""
    where.print(what, crop=False)


def _text(given: str | Text) -> Text:
    return Text(given) if isinstance(given, str) else given


def _sum(widths: Iterable[int]) -> int:
    every = list(widths)
    return sum(every) + _GAP * max(0, len(every) - 1)


def _wrapped(text: Text, width: int) -> list[Text]:
    """`text` in lines. A word is never broken, as it may be an id; nor a command that fits."""
    whole = _COMMAND.sub(lambda found: _glued(found[0], width), text.plain)
    lines = textwrap.wrap(whole, width, break_long_words=False, break_on_hyphens=False)
    if len(lines) <= 1:
        return [text]
    return [Text(line.replace(_GLUE, " "), text.style) for line in lines]


_COMMAND = re.compile(r"crewai-dbos(?: \S*[^\s.,;:)])*(?: \S+)?")
_GLUE = "\N{NO-BREAK SPACE}"


def _glued(command: str, width: int) -> str:
    return command.replace(" ", _GLUE) if len(command) <= width else command
