"""The table of matrices that is printed when all tests are done."""

from __future__ import annotations

from collections.abc import Sequence

from crewai_dbos.testing.crash import Verdict

Line = tuple[str, ...]
"""A name and its sums."""

_HEADER = (
    "",
    "positions",
    "kills",
    "completed calls",
    "made again",
    "in flight made again",
    "answers equal",
    "seconds",
)


def line(name: str, verdicts: Sequence[Verdict], seconds: float) -> Line:
    numbers = (
        len(verdicts),
        sum(verdict.observed.deaths for verdict in verdicts),
        sum(verdict.completed for verdict in verdicts),
        sum(len(verdict.repeated) for verdict in verdicts),
        sum(len(verdict.in_flight) for verdict in verdicts),
        sum(verdict.result_equal for verdict in verdicts),
    )
    return (name, *map(str, numbers), f"{seconds:.0f}")


def table(lines: Sequence[Line]) -> list[str]:
    """The lines of all matrices, with their sums."""
    sums = [str(sum(map(int, column))) for column in list(zip(*lines, strict=True))[1:]]
    cells = [_HEADER, *map(tuple, lines), ("all", *sums)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            [line[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        )
        for line in cells
    ]
