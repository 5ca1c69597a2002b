"""Verdicts as lines and as JSON, for the command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

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
        "effects_reported": _are_reported(verdicts),
        "unrecorded_tools": _unrecorded_tools(verdicts),
        "runs": rows,
    }


def line(verdict: Verdict, number: int, count: int) -> str:
    """What became of one run, for a console; `number` of `count`."""
    figures = [
        f"{verdict.completed} completed",
        f"{len(verdict.repeated)} made again",
        f"{len(verdict.in_flight)} in flight",
        f"effects {_effects(verdict)}",
        f"result {'equal' if verdict.result_equal else 'DIFFERENT'}",
    ]
    end = "[green]survived[/]" if verdict.ok else "[red]FAILED[/]  "
    where = escape(" then ".join(map(str, verdict.positions)))
    return f"{number:>{len(str(count))}}/{count} {end}  {where}\n    {', '.join(figures)}"


def show(verdicts: Sequence[Verdict], console: Console) -> None:
    """What went wrong, and the sums."""
    for verdict in verdicts:
        if not verdict.ok:
            console.print(f"\n{verdict}", markup=False)
    data = as_data(verdicts)
    console.print(
        f"{data['survived']} of {data['positions']} survived. Of {data['completed']} completed "
        f"recorded calls {data['repeated']} were made again."
    )
    for sentence in not_shown(verdicts):
        console.print(sentence, markup=False)


def not_shown(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """What these verdicts say nothing of, though each may be one of a run that survived."""
    if unrecorded := _unrecorded_tools(verdicts):
        yield (
            f"Not recorded, so made again in every run that goes on: {', '.join(unrecorded)}. "
            "Decorate them with @DBOS.step()."
        )
    if verdicts and not _are_reported(verdicts):
        yield (
            "No effects were reported: put report_effect into your tools, or this says nothing of "
            "what they do."
        )


def _are_reported(verdicts: Sequence[Verdict]) -> bool:
    return any(verdict.observed.effects for verdict in verdicts)


def _unrecorded_tools(verdicts: Sequence[Verdict]) -> list[str]:
    return sorted({tool for verdict in verdicts for tool in verdict.unrecorded_tools})


def _effects(verdict: Verdict) -> str:
    if verdict.effects_repeated:
        return f"{len(verdict.effects_repeated)} again"
    if verdict.effects_in_flight:
        return f"{len(verdict.effects_in_flight)} again, in flight"
    return "each once" if verdict.observed.effects else "not reported"
