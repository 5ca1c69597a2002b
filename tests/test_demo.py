"""`crewai-dbos demo`, as a person at a terminal and a program get it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import crewai_dbos
from crewai_dbos._demo import process
from crewai_dbos.cli import app
from support.databases import some_here
from support.python import Program

pytestmark = pytest.mark.crash

SOURCE = str(Path(crewai_dbos.__file__).parents[1])


def start(folder: Path, *options: str, **env: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, [SOURCE, env.pop("PYTHONPATH", None)]))
    return subprocess.Popen(
        [sys.executable, "-m", "crewai_dbos.cli", "demo", *options],
        cwd=folder,
        env={**os.environ, **env, "PYTHONPATH": path, "TMPDIR": str(folder), "COLUMNS": "80"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        umask=0,
    )


class Forked:
    """As the `Popen` of a process of the demo, which takes seconds to import crewAI."""

    def __init__(self, command: list[str], *, cwd: Path, env: Mapping[str, str], **_: Any) -> None:
        *_, module, role = command
        self._pipes = tempfile.TemporaryDirectory()
        given, told = (Path(self._pipes.name, name) for name in ("given", "told"))
        for pipe in (given, told):
            os.mkfifo(pipe)
        order = (BETWEEN_PIPES, given, told, module, role)
        self._program = Program("-c", *order, folder=cwd, env=env, umask=0o077)
        self.pid = self._program.pid
        self.stdin, self.stdout = given.open("w"), told.open()

    def poll(self) -> None:
        self._program.check_is_there()

    def kill(self) -> None:
        self._program.end()

    def wait(self) -> None:
        self._pipes.cleanup()


BETWEEN_PIPES = """
import os, runpy, sys
_, given, told, module, role = sys.argv
for number, pipe, mode in ((0, given, os.O_RDONLY), (1, told, os.O_WRONLY)):
    os.dup2(os.open(pipe, mode), number)
sys.argv[1:] = [role]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("how", some_here(["forked", "fresh"], ["forked"]))
def test_without_a_terminal_the_story_is_plain_lines(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "forked":
        monkeypatch.setattr(process, "subprocess", SimpleNamespace(Popen=Forked, PIPE=-1))
    told = tmp_path / "told"
    told.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(told))
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(app, ["demo"])
    assert (done.exit_code, done.stderr) == (0, "")
    output = done.stdout
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) <= 80
    story = [" ".join(line.split()[1:]) for line in output.splitlines()]
    assert story.count("email to ada@example.com") == 2, "once in each half"
    assert story.count("email to ada@example.com, again") == 1
    assert story.count("email to edsger@example.com") == 2
    assert output.count("kill -9") == 2
    assert "tokens saved by replay" in output
    assert list(told.iterdir()) == [], "nothing is left in the temporary folder"


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "crewai.py").write_text("raise ImportError('no crewai today')")
    failing = start(tmp_path, PYTHONPATH=str(modules))
    _, errors = failing.communicate(timeout=110)
    assert failing.returncode == 1
    assert errors.startswith("The demo failed. The process 'durable' ")
    assert "no crewai today" in errors
