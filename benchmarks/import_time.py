"""What `import crewai_dbos` adds to `import crewai`, each in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.harness import Row, compared, environment, interleaved

NAME = "import"
SIDES = {
    "crewai": "import crewai",
    "crewai and dbos": "import crewai, dbos",
    "crewai-dbos": "import crewai, crewai_dbos",
}


def measure(quick: bool, folder: Path) -> list[Row]:
    # The first imports after an installation write byte code and read cold files.
    for code in SIDES.values():
        _seconds(folder, code)
    sides = {side: partial(_seconds, folder, code) for side, code in SIDES.items()}
    return compared(
        NAME, "a fresh process", "s", interleaved(sides, 2 if quick else 4), headline=True
    )


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
