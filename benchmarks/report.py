"""The table, as Markdown and JSON, with what it was measured on."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import Row, Spread

_HEAD = ("case", "side", "median", "min .. max", "ratio", "min .. max", "goal", "n", "")


def surroundings() -> dict[str, Any]:
    """The machine, its load before the run, and the versions."""
    return {
        "date": date.today().isoformat(),
        "machine": {
            "cpus": os.cpu_count(),
            "cpu": _cpu(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "os": f"{_distribution()}, {platform.system()} {platform.release()}",
        },
        "load_before": [round(load, 1) for load in os.getloadavg()],
        "versions": {
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            **{name: version(name) for name in ("crewai-dbos", "crewai", "dbos", "openai")},
        },
    }


def concluded(
    before: Mapping[str, Any], seconds: float, *, quick: bool, names: Sequence[str]
) -> dict[str, Any]:
    """`before`, with what is known after a run of so many seconds of the benchmarks in `names`."""
    command = " ".join(("python -m benchmarks", *names)) if names else "make bench"
    return {
        **before,
        "command": command,
        "load_after": [round(load, 1) for load in os.getloadavg()],
        "seconds": round(seconds),
        "quick": quick,
    }


def write(rows: Sequence[Row], about: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``results.json`` and ``RESULTS.md`` into `folder`.

    What earlier runs have measured stays there, but for the benchmarks that were measured anew.
    """
    results = folder / "results.json"
    anew = {row.benchmark for row in rows}
    runs = [{**about, "rows": [row.as_json() for row in rows]}]
    for run in json.loads(results.read_text()) if results.exists() else ():
        if kept := [row for row in run["rows"] if row["benchmark"] not in anew]:
            runs.append({**run, "rows": kept})
    results.write_text(json.dumps(runs, indent=1) + "\n")
    table = folder / "RESULTS.md"
    table.write_text(_markdown(runs))
    return [table, results]


def _figure(row: Row) -> str:
    return f"{_number(row.figure.median)} {row.unit}"


def _goal(row: Row) -> str:
    if row.at_most is None:
        return ""
    return f"<= {row.at_most:g}: {'met' if row.met else 'not met'}"


def _markdown(runs: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "# Benchmarks",
        "",
        "The sides of a case were measured in turn in one run. A ratio is one side's figure "
        "divided by that of the first side in the same round; its median is the median of the "
        "rounds, not the quotient of the medians. `n` is the number of rounds.",
    ]
    for run in runs:
        lines += _measurement(run)
    return "\n".join(lines) + "\n"


def _measurement(about: Mapping[str, Any]) -> list[str]:
    """One run: on what it was measured, and its tables."""
    machine = about["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    lines = [
        "",
        f"Measured on {about['date']} in {about['seconds']} s with `{about['command']}`.",
        "",
        f"- {machine['cpus']} CPUs ({machine['cpu']}), {machine['memory_gib']} GiB, "
        f"{machine['os']}.",
        f"- {versions}.",
        f"- Load average (1, 5, 15 minutes) {_listed(about['load_before'])} before and "
        f"{_listed(about['load_after'])} after. Where it was above zero before the run, other "
        "work shared the machine: the ratios hold, the times are longer than they need be.",
    ]
    if about["quick"]:
        lines += ["", "This was a quick run, which checks that everything works. Not figures."]
    rows = [Row.from_json(row) for row in about["rows"]]
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        lines += ["", f"## {benchmark[0].upper()}{benchmark[1:]}", ""]
        lines += _table([row for row in rows if row.benchmark == benchmark])
    return lines


def _table(rows: Sequence[Row]) -> list[str]:
    lines = [f"| {' | '.join(_HEAD)} |", f"|{'---|' * len(_HEAD)}"]
    case = ""
    for row in rows:
        cells = (
            row.case if row.case != case else "",
            row.side,
            _figure(row),
            _range(row.figure),
            "1" if row.ratio is None and row.against is None else _ratio(row.ratio),
            "" if row.ratio is None else _range(row.ratio),
            _goal(row),
            str(row.figure.count),
            row.note,
        )
        case = row.case
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _ratio(ratio: Spread | None) -> str:
    return "" if ratio is None else f"**{_number(ratio.median)}**"


def _range(spread: Spread) -> str:
    return f"{_number(spread.low)} .. {_number(spread.high)}"


def _number(value: float) -> str:
    """Three significant digits, and no exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(map(str, values))


def _cpu() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.platform()
