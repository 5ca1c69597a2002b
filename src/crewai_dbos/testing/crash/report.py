"""Verdicts as a table and as JSON, for the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from crewai_dbos.testing.crash.verdict import Verdict


def as_data(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The figures of each position and their sums, as JSON data."""
    rows = [
        {
            "position": " then ".join(map(str, verdict.positions)),
            "ok": verdict.ok,
            "completed": verdict.completed,
            "repeated": verdict.repeated,
            "in_flight_repeated": verdict.in_flight,
            "effects_repeated": verdict.effects_repeated,
            "effects_in_flight_repeated": verdict.effects_in_flight,
            "result_equal": verdict.result_equal,
            "status": verdict.observed.ended.get("status"),
            "problems": verdict.problems,
        }
        for verdict in verdicts
    ]
    return {
        "positions": len(rows),
        "survived": sum(verdict.ok for verdict in verdicts),
        "completed": sum(verdict.completed for verdict in verdicts),
        "repeated": sum(len(verdict.repeated) for verdict in verdicts),
        "runs": rows,
    }


def show(verdicts: Sequence[Verdict], console: Console) -> None:
    """The table of all positions, the sums, and what went wrong."""
    others = ("", "completed", "made again", "in flight", "effects", "result")
    table = Table(Column("killed at", overflow="fold"), *others)
    for verdict in verdicts:
        table.add_row(
            " then ".join(map(str, verdict.positions)),
            "[green]survived[/]" if verdict.ok else "[red]FAILED[/]",
            str(verdict.completed),
            str(len(verdict.repeated)),
            str(len(verdict.in_flight)),
            _effects(verdict),
            "equal" if verdict.result_equal else "DIFFERENT",
        )
    console.print(table)
    data = as_data(verdicts)
    console.print(
        f"{data['survived']} of {data['positions']} survived. Of {data['completed']} completed "
        f"calls {data['repeated']} were made again."
    )
    for verdict in verdicts:
        if not verdict.ok:
            console.print(f"\n{verdict}", markup=False)


def _effects(verdict: Verdict) -> str:
    if verdict.effects_repeated:
        return f"{len(verdict.effects_repeated)} again"
    if verdict.effects_in_flight:
        return f"{len(verdict.effects_in_flight)} again, in flight"
    return "each once"
