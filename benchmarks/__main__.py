"""Runs the benchmarks and writes their table: ``python -m benchmarks [names] [--quick]``."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import ROOT, Row, environment
from benchmarks.report import concluded, surroundings, write

BENCHMARKS = (
    "recorded_call",
    "zero_latency_run",
    "replay",
    "flow",
    "stored_bytes",
    "recovery",
    "answered",
    "load",
    "events",
    "control",
    "import_time",
)

APART = ("fleet", "takeover", "memory", "waiting")
"""Those that take long: measured by name, each in a run of its own, as `make bench` is to end in 15
minutes."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"of {', '.join(BENCHMARKS + APART)}"
    )
    parser.add_argument("--quick", action="store_true", help="few rounds: a check, no figures")
    parser.add_argument("--into", type=Path, default=ROOT / "benchmarks", metavar="FOLDER")
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := set(given.names) - {*BENCHMARKS, *APART}:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    if given.rows is not None:
        (name,) = given.names
        _measure_here(name, given.quick, given.rows)
        return
    before = surroundings()
    rows: list[Row] = []
    started = time.monotonic()
    for name in given.names or BENCHMARKS:
        print(f"{name} ...", end=" ", flush=True)
        begun = time.monotonic()
        rows += _measured(name, given.quick)
        print(f"{time.monotonic() - begun:.0f} s", flush=True)
    seconds = time.monotonic() - started
    about = concluded(before, seconds, quick=given.quick, names=given.names)
    print(*write(rows, about, given.into), sep="\n")


def _measured(name: str, quick: bool) -> list[Row]:
    """The rows of one benchmark, from a process of its own, so that none disturbs another."""
    with tempfile.TemporaryDirectory(prefix="crewai-dbos-bench-") as folder:
        home = Path(folder)
        found = home / "rows.json"
        command = [sys.executable, "-m", "benchmarks", name, "--rows", str(found)]
        command += ["--quick"] if quick else []
        done = subprocess.run(
            command, cwd=home, env=environment(home), capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{done.stdout}\n{done.stderr}\nThe benchmark {name} failed.")
        return [Row.from_json(row) for row in json.loads(found.read_text())]


def _measure_here(name: str, quick: bool, path: Path) -> None:
    folder = path.parent / "work"
    folder.mkdir()
    rows = importlib.import_module(f"benchmarks.{name}").measure(quick, folder)
    path.write_text(json.dumps([row.as_json() for row in rows]))


if __name__ == "__main__":
    main()
