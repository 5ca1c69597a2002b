"""docs/tutorial.md: what it has a reader do, from an empty folder to an approved run."""

from __future__ import annotations

import os
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from crewai_dbos.testing import Delayed, Hang, ModelServer, Reply, Request, hang
from pages.blocks import blocks, text_of
from pages.diffs import apply
from people.conftest import until
from support.python import Program, python

pytestmark = pytest.mark.crash

TUTORIAL = text_of("docs/tutorial.md")
COMMANDS = "\n".join(blocks("docs/tutorial.md", "bash"))


def test_from_an_empty_folder_to_an_approved_run(tmp_path: Path) -> None:
    env = {**os.environ, "HOME": str(tmp_path), "COLUMNS": "100"}
    crewai = ("-c", "from crewai_cli.cli import crewai; crewai()")
    create = ("create", "crew", "reports", "--classic", "--skip-provider")
    assert f"crewai {' '.join(create)}\n" in COMMANDS
    made = python(*crewai, *create, folder=tmp_path, env=env)
    assert made.returncode == 0, made.stderr
    project = tmp_path / "reports"

    model, ending, tool = blocks("docs/tutorial.md")
    for shown in (model, tool):
        write(shown, project)
    write(ending, project, mode="a")
    durable, gives, tells, asks = blocks("docs/tutorial.md", "diff")
    apply(durable, project)

    script = runpy.run_path(str(project / "model.py"))["script"]
    held = {2: hang()}

    def answers(request: Request) -> Reply:
        reply: Reply = script(request)
        assert isinstance(reply, Delayed)
        return held.get(request.number, reply.then)

    with ModelServer(answers) as server:
        env |= {**server.env, "PYTHONPATH": f"src{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        reader = Reader(project, env)

        reader.runs("python -m reports.main first", killed_at=held[2])
        assert (len(server.requests)) == 2
        goes_on = reader.runs("python -m reports.main first")
        assert "`Run first goes on: 1 call from the record.`" in TUTORIAL
        assert "Run first goes on: 1 call from the record." in goes_on
        assert "It was the transformer" in goes_on
        assert len(server.requests) == 3, "the researcher was not asked again"
        assert "It was the transformer" in reader.runs("python -m reports.main first")
        assert len(server.requests) == 3

        env["DBOS_SYSTEM_DATABASE_URL"] = "sqlite:///reports.sqlite"
        assert "export DBOS_SYSTEM_DATABASE_URL=sqlite:///reports.sqlite\n" in COMMANDS
        assert "first" in reader.calls("crewai-dbos runs list")
        assert "Researcher" in reader.calls("crewai-dbos runs show first")

        apply(gives, project)
        apply(tells, project)
        apply(asks, project)
        assert "send_report" in reader.calls("crewai-dbos doctor reports.main:crew")
        waits = reader.starts("python -m reports.main second")
        assert "send_report" in reader.inbox(waits)
        waits.kill()
        waits.communicate(timeout=60)
        assert not (project / "sent.txt").exists()
        again = reader.starts("python -m reports.main second")
        request_id = reader.inbox(again).splitlines()[1].split()[0]
        assert "crewai-dbos inbox approve ID --edit\n" in COMMANDS
        changed = "python -c 'import pathlib, sys; file = pathlib.Path(sys.argv[1]); "
        changed += 'file.write_text(file.read_text().replace("boss@", "chef@"))\''
        env["EDITOR"] = changed
        reader.calls(f"crewai-dbos inbox approve {request_id} --edit", shown=False)
        out, errors = again.communicate(timeout=60)
        assert again.returncode == 0, errors
        assert "It was the transformer" in out
    assert (project / "sent.txt").read_text() == "to chef@example.com: It was AI.\n"


def test_the_kill_is_for_the_program_only() -> None:
    (pattern,) = re.findall(r"^pkill -9 -f '(.*)'$", COMMANDS, re.MULTILINE)
    programs = ["python -m reports.main first", "python -m reports.main second"]
    programs += ["uv run run_crew first", "/project/.venv/bin/python /bin/run_crew first"]
    others = ["vim src/reports/main.py", "crewai-dbos doctor reports.main:crew", "python model.py"]
    assert [each for each in programs + others if re.search(pattern, each)] == programs


class Reader:
    """Who does in a project what the page says."""

    def __init__(self, project: Path, env: dict[str, str]) -> None:
        self._project = project
        self._env = env

    def starts(self, command: str) -> Program:
        assert f"{command}\n" in COMMANDS
        _, *arguments = command.split()
        return Program(*arguments, folder=self._project, env=self._env)

    def runs(self, command: str, killed_at: Hang | None = None) -> str:
        """What the program says, to its end or until it is killed."""
        program = self.starts(command)
        if killed_at is not None:
            killed_at.wait_until_held(timeout=60)
            program.kill()
        out, errors = program.communicate(timeout=110)
        assert killed_at is not None or program.returncode == 0, errors
        return out + errors

    def calls(self, command: str, shown: bool = True) -> str:
        """What a command of ours says."""
        assert not shown or command in TUTORIAL
        _, *arguments = command.split()
        module = ("-m", "crewai_dbos.cli", *arguments)
        done = python(*module, folder=self._project, env=self._env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def inbox(self, waits: Program) -> str:
        """What is asked, as soon as something is."""
        until(lambda: waits.check_is_there() or "waits for a person" in waits._texts()[1])
        return self.calls("crewai-dbos inbox list")


def write(block: str, project: Path, mode: str = "w") -> Any:
    """Put a block into the file that its first line names."""
    first, _, rest = block.partition("\n")
    with open(project / first.lstrip("#> "), mode) as file:
        file.write(rest)
