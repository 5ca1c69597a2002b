"""docs/workers.md: its programs run as they stand."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from crewai_dbos.testing import ModelServer, text
from crewai_dbos.testing.crash._fork_server import fork_server
from crewai_dbos.testing.crash._jobs import Job
from fleet import jobs
from pages.blocks import blocks
from people.conftest import until
from support.python import python

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
    first, further = (each for each in blocks("docs/workers.md") if "Worker(" in each)
    program = first + further if kind == "async" else first
    (tmp_path / "program.py").write_text(program + PROGRAMS[kind])
    order = {"folder": str(tmp_path), "url": f"sqlite:///{tmp_path}/support.sqlite"}
    job = Job(f"{jobs.__name__}:program", order, tmp_path / "log", {})
    process = fork_server(jobs.__name__).start(job)
    until(lambda: "works as" in process.output())
    assert f":{process.pid}:" in process.output()
    os.kill(process.pid, signal.SIGTERM)
    end = process.wait()
    assert (end.code, end.late) == (0, False), process.output()


ASKED = """
import os
from ask import ask
from app import research
from customers import begin, make_queue
from dbos import DBOS
from crewai_dbos import Worker

url = os.environ["DBOS_SYSTEM_DATABASE_URL"]
DBOS(config={"name": "research", "system_database_url": url})
with Worker(grace=0):
    ask(url, ["otters", "seals"])
    make_queue()
    for run_id in ("otters", "seals", begin("ann", "voles")):
        print(run_id, research.retrieve(run_id).get_result().raw)
        status = DBOS.retrieve_workflow(run_id).get_status()
        print(status.queue_name, status.app_version)
"""


@pytest.mark.crash
def test_the_runs_that_are_asked_for_on_its_queue(tmp_path: Path) -> None:
    """What `crewai-dbos worker app` does with that module is in tests/fleet/test_command.py."""
    for block in blocks("docs/workers.md"):
        if block.startswith("# "):
            (tmp_path / block.splitlines()[0].removeprefix("# ")).write_text(block)
    (tmp_path / "program.py").write_text(ASKED)
    url = f"sqlite:///{tmp_path}/research.sqlite"
    given = {"DBOS_SYSTEM_DATABASE_URL": url, "DBOS__APPVERSION": "research-1"}
    with ModelServer(lambda request: text("They swim.")) as server:
        env = {**os.environ, **server.env, **given}
        done = python(tmp_path / "program.py", folder=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "otters They swim.",
        "research research-1",
        "seals They swim.",
        "research research-1",
        "ann/voles They swim.",
        "by-customer research-1",
    ]
