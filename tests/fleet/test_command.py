"""`crewai-dbos worker`, as users start it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOS, DBOSClient, WorkflowSerializationFormat

from crewai_dbos.control import Control
from crewai_dbos.testing.crash._fork_server import fork_server
from crewai_dbos.testing.crash._jobs import Job
from crewai_dbos.testing.crash._processes import Process
from fleet import jobs
from people.conftest import until
from support.launching import QUICK, make_database

pytestmark = pytest.mark.crash

APP = """
import time
from pathlib import Path
from crewai.flow.flow import Flow, start
from crewai_dbos import DBOSFlow, step

class Greeting(Flow):
    @start()
    def greet(self):
        return step(hello)

def hello():
    Path("begun").touch()
    while Path("hang").exists():
        time.sleep(0.02)
    return "hello"

greeting = DBOSFlow(flow_name="greeting", orig_flow=Greeting)
"""


def ask(url: str) -> None:
    """Put a run on a queue, as another program does, before there is any worker."""
    config = {"name": "app", "system_database_url": url, "application_version": "1"}
    DBOS(config={**QUICK, **config, "log_level": "ERROR"})
    DBOS.listen_queues(["nothing"])
    DBOS.launch()
    DBOS.register_queue("jobs")
    DBOS.destroy()
    client = DBOSClient(system_database_url=url)
    client.enqueue(
        {
            "queue_name": "jobs",
            "workflow_name": "crewai_dbos.flow",
            "workflow_id": "one",
            "application_name": "app",
            "serialization_type": WorkflowSerializationFormat.PORTABLE,
        },
        {"v": 2, "flow": "greeting", "inputs": {}},
    )
    client.destroy()


def command(folder: Path, *arguments: str) -> Any:
    """As a shell starts it, which takes seconds."""
    return subprocess.Popen(
        [sys.executable, "-m", "crewai_dbos.cli", "worker", *arguments],
        cwd=folder,
        env={**os.environ, "CREWAI_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def forked(folder: Path, *arguments: str) -> Process:
    """The same in a process that finds crewAI imported."""
    order = {"folder": str(folder), "arguments": ["worker", *arguments]}
    log = folder / f"{len(list(folder.glob('*.log')))}.log"
    job = Job(f"{jobs.__name__}:command_until_stopped", order, log, {})
    return fork_server(jobs.__name__).start(job)


def test_it_works_off_what_another_program_has_enqueued(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    url = f"sqlite:///{tmp_path}/app.sqlite"
    ask(url)
    process = command(tmp_path, "app:greeting", "--db-url", url, "--version", "1")
    while "carries out" not in (line := process.stdout.readline()):
        assert line, "it has ended"
    assert "flow greeting" in line
    client = DBOSClient(system_database_url=url)
    until(lambda: client.retrieve_workflow("one").get_status().status == "SUCCESS")
    client.destroy()
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert " has stopped." in said


def terminates(when: str) -> str:
    """Code that ends the process with SIGTERM as soon as it logs that."""
    return f"""
import logging, os, signal

class Terminates(logging.Handler):
    def emit(self, record):
        if {when!r} in record.getMessage():
            Path("then").touch()
            os.kill(os.getpid(), signal.SIGTERM)

for name in ("dbos", "crewai_dbos"):
    logging.getLogger(name).addHandler(Terminates())
"""


@pytest.mark.parametrize("when", ["DBOS launched!", "carries out"])
def test_sigterm_ends_it_while_it_begins(tmp_path: Path, when: str) -> None:
    """Without a lease that others would have to wait for."""
    (tmp_path / "app.py").write_text(APP + terminates(when))
    make_database(url := f"sqlite:///{tmp_path}/app.sqlite")
    process = forked(tmp_path, "app", "--db-url", url, "--log-level", "info")
    end = process.wait()
    assert (end.code, end.late) == (0, False), process.output()
    assert (tmp_path / "then").exists()
    assert "told to stop while it began" in process.output() or when == "carries out"
    with Control(url) as control:
        assert [worker.alive for worker in control.workers()] == [False]


def test_a_name_that_is_the_module_s(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/app.sqlite"
    own = f"from dbos import DBOS\nDBOS(config={{'name': 'own', 'system_database_url': {url!r}}})\n"
    (tmp_path / "app.py").write_text(APP + own + terminates("carries out"))
    process = forked(tmp_path, "app", "--name", "own", "--log-level", "info")
    assert process.wait().code == 0, process.output()
    assert " has stopped." in process.output()


def test_what_it_says_and_does_not_carry_out(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "own.py").write_text("from dbos import DBOS\nDBOS(config={'name': 'own'})\n")
    url = f"sqlite:///{tmp_path}/app.sqlite"
    ask(url)
    arguments = [
        ["worker", "json", "--db-url", url],
        ["worker", "nowhere", "--db-url", url],
        ["worker", "app:gretting", "--db-url", url],
        ["workers", "--db-url", url],
        ["worker", "own", "--name", "other"],
        ["worker", "./own.py", "--name", "other"],
        ["--schema", "other", "worker", "own"],
        ["worker", "nowhere.py"],
    ]
    order = {"folder": str(tmp_path), "arguments": arguments}
    job = Job(f"{jobs.__name__}:command", order, tmp_path / "log", {})
    told = fork_server(jobs.__name__).start(job).wait().result
    assert [code for code, _ in told] == [2, 2, 2, 0, 2, 2, 2, 2]
    expected = (
        "no DBOSAgent",
        "nowhere",
        "Did you mean 'greeting'",
        "No worker has been here",
        "under another name than --name",
        "under another name than --name",
        "with another schema than --schema",
        "nor the path of its file",
    )
    for (_, said), part in zip(told, expected, strict=True):
        assert part in said
        assert "Traceback" not in said


@pytest.mark.parametrize("root", ["", ", 'root': {'handlers': []}"])
def test_it_says_why_it_ends_whatever_logging_is_set_up(tmp_path: Path, root: str) -> None:
    module = f"import logging.config\nlogging.config.dictConfig({{'version': 1{root}}})\n"
    (tmp_path / "quiet.py").write_text(module)
    process = forked(tmp_path, "quiet")
    assert process.wait().code == 2
    assert "There is no DBOSAgent, DBOSCrew or DBOSFlow" in process.output()


def test_a_worker_that_cannot_begin_says_so_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    url = f"sqlite:///{tmp_path}/app.sqlite"
    ask(url)
    away = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    arguments = [
        ["app", "--db-url", away],
        ["app", "--db-url", url, "--name", "other", "--version", "1"],
    ]
    reasons = ("Connection refused", "registered by application 'app'")
    for its, why in zip(arguments, reasons, strict=True):
        process = forked(tmp_path, *its, "--log-format", "json")
        assert process.wait().code == 2, process.output()
        (line,) = process.output().splitlines()
        told = json.loads(line)
        assert told["level"] == "error"
        assert told["message"].startswith("The worker can't begin: ")
        assert why in told["message"]


def test_runs_of_another_application_or_version_are_told_of(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    url = f"sqlite:///{tmp_path}/app.sqlite"
    ask(url)
    with sqlite3.connect(tmp_path / "app.sqlite") as connection:
        connection.execute("UPDATE workflow_status SET application_version = '3'")
    process = forked(tmp_path, "app", "--db-url", url, "--name", "other", "--version", "7")
    until(lambda: "carries out" in process.output())
    said = process.output()
    assert "of application 'other', version '7' carries out flow greeting" in said
    assert "Not taken: 1 run of application 'app', version '3' (--name" in said
    assert "are this worker's): one" in said
    os.kill(process.pid, signal.SIGTERM)
    process.wait()
    assert " has stopped." in process.output()


def test_one_whose_id_another_process_takes_ends_beside_a_call_that_hangs(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "hang").touch()
    url = f"sqlite:///{tmp_path}/app.sqlite"
    ask(url)
    of_ours = ["app", "--db-url", url, "--version", "1"]
    process = forked(tmp_path, *of_ours, "--lease", "1", "--grace", "0")
    until(lambda: (tmp_path / "begun").exists())
    with sqlite3.connect(tmp_path / "app.sqlite", timeout=60) as connection:
        connection.execute("UPDATE crewai_dbos_workers SET token = 'another'")
    end = process.wait()
    assert (end.code, end.late) == (2, False), process.output()
    assert "is that of another process" in process.output()
