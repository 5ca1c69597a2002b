"""Programs that find crewAI imported and nothing of ours, as a new interpreter would be.

Of `support.python` a process has our modules, too, and their classes built. Here one interpreter
imports crewAI, which takes seconds, and is forked for each program.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_EACH = """
import json, os, sys, traceback
import crewai, crewai.agents.agent_executor, crewai.flow.runtime

for number, source in enumerate(json.load(sys.stdin)):
    if pid := os.fork():
        os.waitpid(pid, 0)
        continue
    for output in (1, 2):
        os.dup2(os.open(f"{number}.{output}", os.O_WRONLY | os.O_CREAT), output)
    try:
        exec(compile(source, "<string>", "exec"), vars(sys.modules["__main__"]))
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
"""


def said_by(programs: Sequence[str], folder: Path) -> list[tuple[str, str]]:
    """Output and errors of each program, one after the other.

    Args:
        programs: Their sources.
        folder: Empty; there they work.
    """
    path = os.pathsep.join(map(os.path.abspath, sys.path))
    subprocess.run(
        [sys.executable, "-c", _EACH],
        input=json.dumps(programs),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
        check=True,
        timeout=250,
    )
    return [
        ((folder / f"{number}.1").read_text(), (folder / f"{number}.2").read_text())
        for number in range(len(programs))
    ]
