"""docs/workers.md: its program runs as it stands."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from crewai_dbos.testing.crash._fork_server import fork_server
from crewai_dbos.testing.crash._jobs import Job
from fleet import jobs
from pages.blocks import blocks
from people.conftest import until

STARTED = """
import logging, sys, threading, time
logging.basicConfig(level=logging.INFO)
real = Worker.__enter__
def enter(self):
    entered = real(self)
    threading.Thread(target=tell, args=(self,)).start()
    return entered
def tell(worker):
    while %s:
        time.sleep(0.01)
    print("works as", worker.executor_id, flush=True)
Worker.__enter__ = enter
"""
HEEDS = "signal.getsignal(signal.SIGINT) is signal.default_int_handler"
PROGRAMS = {
    "sync": "import signal" + STARTED % HEEDS + "main(sys.argv[1])",
    "async": STARTED % HEEDS + "asyncio.run(amain(sys.argv[1]))",
}


@pytest.mark.crash
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_program(tmp_path: Path, kind: str) -> None:
    found = blocks("docs/workers.md")
    program = "".join(found[: 1 if kind == "sync" else 2])
    (tmp_path / "program.py").write_text(program + PROGRAMS[kind])
    order = {"folder": str(tmp_path), "url": f"sqlite:///{tmp_path}/support.sqlite"}
    job = Job(f"{jobs.__name__}:program", order, tmp_path / "log", {})
    process = fork_server(jobs.__name__).start(job)
    until(lambda: "works as" in process.output())
    assert f":{process.pid}:" in process.output()
    os.kill(process.pid, signal.SIGTERM)
    end = process.wait()
    assert (end.code, end.late) == (0, False), process.output()
