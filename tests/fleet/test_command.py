"""`crewai-dbos worker`, as users start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOSClient

from people.conftest import until

pytestmark = pytest.mark.crash

APP = """
from crewai.flow.flow import Flow, start
from crewai_dbos import DBOSFlow, step

class Greeting(Flow):
    @start()
    def greet(self):
        return step(hello)

def hello():
    return "hello"

greeting = DBOSFlow(flow_name="greeting", orig_flow=Greeting)
"""

ASK = """
import app
from dbos import DBOS, SetWorkflowID
DBOS(config={"name": "app", "system_database_url": %r, "log_level": "ERROR"})
DBOS.listen_queues(["nothing"])
DBOS.launch()
DBOS.register_queue("jobs")
with SetWorkflowID("one"):
    app.greeting.start(queue="jobs")
DBOS.destroy()
"""


def command(folder: Path, *arguments: str) -> Any:
    return subprocess.Popen(
        [sys.executable, "-m", "crewai_dbos.cli", "worker", *arguments],
        cwd=folder,
        env={**os.environ, "CREWAI_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_it_works_off_what_another_program_has_enqueued(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    url = f"sqlite:///{tmp_path}/app.sqlite"
    subprocess.run([sys.executable, "-c", ASK % url], cwd=tmp_path, check=True, timeout=60)
    process = command(tmp_path, "app:greeting", "--db-url", url)
    while "carries out" not in (line := process.stdout.readline()):
        assert line, "it has ended"
    assert "flow greeting" in line
    client = DBOSClient(system_database_url=url)
    until(lambda: client.retrieve_workflow("one").get_status().status == "SUCCESS")
    client.destroy()
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "Stopped." in said


def test_runs_of_another_application_or_version_are_told_of(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    url = f"sqlite:///{tmp_path}/app.sqlite"
    subprocess.run([sys.executable, "-c", ASK % url], cwd=tmp_path, check=True, timeout=60)
    process = command(tmp_path, "app", "--db-url", url, "--name", "other", "--version", "7")
    said = []
    while "carries out" not in (line := process.stdout.readline()):
        assert line, "it has ended"
        said.append(line)
    assert "of application 'other', version '7' carries out flow greeting" in line
    assert "Not taken: 1 waiting or running of application 'app', version '" in "".join(said)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


@pytest.mark.parametrize(
    ("target", "told"),
    [("nowhere", "nowhere"), ("app:gretting", "Did you mean 'greeting'"), ("json", "no DBOSAgent")],
)
def test_what_can_not_be_carried_out(target: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    process = command(tmp_path, target, "--db-url", f"sqlite:///{tmp_path}/app.sqlite")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert told in said
    assert "Traceback" not in said
