"""Two live processes with one executor id on one database: the second says so, and no other."""

from __future__ import annotations

import itertools
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from crewai.flow.flow import Flow, start

from crewai_dbos import DBOSFlow
from support.databases import some_here, sqlite_here
from support.launching import launched
from support.names import unique
from support.python import Program, python

pytestmark = pytest.mark.crash

VERSION = "1"
SAID = "Another live process has the executor_id"

PROGRAM = """
import os, signal, sys
from crewai.flow.flow import Flow, start
from dbos import DBOS
from crewai_dbos import DBOSFlow
from crewai_dbos._runs import live_processes

class Letters(Flow):
    @start()
    def one(self):
        return "sent"

def define():
    return DBOSFlow(flow_name="letters", orig_flow=Letters)

def launch():
    version = os.environ.get("VERSION", "1")
    url = sys.argv[-1]
    DBOS(config={
        "name": "tests", "application_version": version, "system_database_url": url,
        "notification_listener_polling_interval_sec": 0.02,
    })
    DBOS.launch()
"""

WORKS = """
letters = define()
launch()
letters.kickoff()
letters.retrieve("letter").workflow_id
DBOS.destroy()
launch()
DBOS.destroy()
"""

LAUNCHES_FIRST = """
launch()
define().kickoff()
DBOS.destroy()
"""

DIES = """
define()
launch()
os.kill(os.getpid(), signal.SIGKILL)
"""

LEAVES_A_FORK = """
define()
launch()
if os.fork():
    os.kill(os.getpid(), signal.SIGKILL)
with open("fork", "w") as file:
    print(os.getpid(), file=file)
signal.pause()
"""

FORKS = """
define()
launch()
if pid := os.fork():
    os.waitpid(pid, 0)
    DBOS.destroy()
else:
    # As a definition does. To make one takes threads of crewAI's, which a fork does not have.
    live_processes.watch()
    os._exit(0)
"""

STAYS = """
define()
launch()
with open("launched", "w"), open("end") as file:
    file.read()
DBOS.destroy()
"""


class Letters(Flow[dict[str, str]]):
    @start()
    def one(self) -> str:
        return "sent"


@pytest.fixture(autouse=True)
def executor_id(monkeypatch: pytest.MonkeyPatch) -> str:
    """One that nothing else has, so that what is said of it is said for the first time."""
    DBOSFlow(flow_name=unique("letters"), orig_flow=Letters)
    executor_id = unique("executor")
    monkeypatch.setenv("DBOS__VMID", executor_id)
    return executor_id


@contextmanager
def live(url: str) -> Iterator[None]:
    with launched(url, application_version=VERSION):
        yield


def said_by(program: str, url: str, folder: Path, **env: str) -> int:
    """How often a process says it."""
    ended = python("-c", PROGRAM + program, url, folder=folder, env={**os.environ, **env})
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    return ended.stderr.count(SAID)


PROGRAMS = {"works": WORKS, "launches first": LAUNCHES_FIRST}
HERE = [("works", "sqlite"), ("works", "postgres"), ("launches first", "sqlite")]


@pytest.mark.parametrize(
    ("name", "database_url"),
    some_here(itertools.product(PROGRAMS, ("sqlite", "postgres")), HERE),
    indirect=["database_url"],
)
def test_the_second_process_says_it_once(
    name: str, database_url: str, executor_id: str, tmp_path: Path
) -> None:
    program = PROGRAMS[name]
    with live(database_url):
        assert said_by(program, database_url, tmp_path) == 1
        # Nobody takes over the runs of another executor, another release, another application.
        assert said_by(program, database_url, tmp_path, DBOS__VMID=unique("other")) == 0
        assert said_by(program, database_url, tmp_path, VERSION="2") == 0
    assert said_by(program, database_url, tmp_path) == 0


@sqlite_here("database_url")
def test_what_it_says_names_the_executor_and_what_to_do(
    database_url: str, executor_id: str, tmp_path: Path
) -> None:
    with live(database_url):
        said = python("-c", PROGRAM + WORKS, database_url, folder=tmp_path).stderr
    line = next(line for line in said.splitlines() if SAID in line)
    for part in (repr(executor_id), "DBOS__VMID", "client=DBOSClient("):
        assert part in line


def test_nobody_says_it_after_one_that_was_killed_or_has_ended(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "crewai_dbos")
    for program in (DIES, FORKS, WORKS, LEAVES_A_FORK):
        assert said_by(program, database_url, tmp_path) == 0
        with live(database_url):
            pass
        with live(database_url):
            pass
    os.kill(int((tmp_path / "fork").read_text()), signal.SIGKILL)
    assert SAID not in caplog.text


def test_the_second_is_seen_when_the_first_has_gone(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "crewai_dbos")
    for name in ("launched", "end"):
        os.mkfifo(tmp_path / name)
    with live(database_url):
        second = Program("-c", PROGRAM + STAYS, database_url, folder=tmp_path)
        (tmp_path / "launched").open().close()
    assert SAID not in caplog.text
    with live(database_url):
        assert SAID in caplog.text
        (tmp_path / "end").open("w").close()
        _, said = second.communicate(timeout=60)
    assert SAID in said
