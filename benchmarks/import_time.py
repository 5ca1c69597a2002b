"""What the durable classes add to the import of crewAI and DBOS, each in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.harness import Row, compared, environment, interleaved

NAME = "import"
BARE, OURS = "crewai and dbos", "and crewai-dbos"
SIDES = {
    BARE: "import crewai, dbos",
    OURS: "import crewai, dbos; from crewai_dbos import DBOSAgent, DBOSCrew, DBOSFlow",
}
GOAL = 1.05
PAIRS = 20


def measure(quick: bool, folder: Path) -> list[Row]:
    # The first imports after an installation write byte code and read cold files.
    for code in SIDES.values():
        _seconds(folder, code)
    sides = {side: partial(_seconds, folder, code) for side, code in SIDES.items()}
    samples = interleaved(sides, 2 if quick else PAIRS)
    case, goal = "a fresh process", {OURS: GOAL}
    return compared(NAME, case, "s", samples, at_most=goal)


def _seconds(folder: Path, code: str) -> float:
    timed = f"import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"
    done = subprocess.run(
        [sys.executable, "-c", timed],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])
