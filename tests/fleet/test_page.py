"""docs/workers.md: its program runs as it stands."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "workers.md").read_text(encoding="utf-8")

STARTED = """
import logging, signal, sys, threading, time
logging.basicConfig(level=logging.INFO)
real = Worker.run
def run(self):
    threading.Thread(target=tell, args=(self,)).start()
    real(self)
def tell(worker):
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        time.sleep(0.01)
    print("works as", worker.executor_id, flush=True)
Worker.run = run
main(sys.argv[1])
"""


@pytest.mark.crash
def test_the_program(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "program.py").write_text(block + STARTED)
    process = subprocess.Popen(
        [sys.executable, "program.py", f"sqlite:///{tmp_path}/support.sqlite"],
        cwd=tmp_path,
        env={**os.environ, "CREWAI_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    while "works as" not in (line := process.stdout.readline()):
        assert line, "it has ended"
    assert f":{process.pid}:" in line
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
