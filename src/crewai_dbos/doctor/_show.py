"""The report as a table for people."""

from __future__ import annotations

from collections.abc import Collection

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from crewai_dbos.doctor._items import made_twice
from crewai_dbos.doctor._report import Finding, Report, Severity

_STYLES: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "hint": "cyan"}

_CUT_SHORT = (
    "Tools that are called again if a crash cuts them short, even after their effect, as they do "
    "not pass idempotency_key() on"
)


def show(report: Report, console: Console, told: Collection[Finding] = ()) -> None:
    """Print a report; of findings that were told before only how many there are."""
    console.print(Text(report.subject, style="bold"))
    console.print()
    if report.items:
        console.print(_table(report))
        console.print()
        if tools := made_twice(report.items):
            console.print(Text(f"{_CUT_SHORT}: {', '.join(tools)}."))
            console.print()
    new = [finding for finding in report.findings if finding not in told]
    for finding in new:
        _tell(finding, console)
    again = len(report.findings) - len(new)
    console.print(_count(report).append(f" ({again} of them as above)" if again else ""))


def _table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    owners = len({item.owner for item in report.items}) > 1
    if owners:
        table.add_column("of", overflow="fold")
    for heading in ("part", "name", "recorded as", "on recovery"):
        table.add_column(heading, overflow="fold")
    for item in report.items:
        seam = Text(item.seam) if item.seam is not None else Text("not recorded", style="yellow")
        cells = [Text(item.owner)] if owners else []
        table.add_row(*cells, item.kind, Text(item.name), seam, Text(item.recovery))
    return table


def _tell(finding: Finding, console: Console) -> None:
    heading = Text(finding.severity, style=_STYLES[finding.severity])
    console.print(heading.append(f"  {finding.rule}", style="default"))
    console.print(Padding(Text(finding.what), (0, 0, 0, 2), expand=False))
    console.print(Padding(Text(f"Fix: {finding.fix}"), (0, 0, 0, 2), expand=False))
    console.print()


def _count(report: Report) -> Text:
    if not report.findings:
        return Text("Nothing to put right.")
    counted = dict.fromkeys(_STYLES, 0)
    for finding in report.findings:
        counted[finding.severity] += 1
    return Text(", ".join(_plural(count, word) for word, count in counted.items() if count))


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
