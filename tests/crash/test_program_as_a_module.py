"""A program whose classes stand in its own file, run as a program and imported as a module."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.python import python

pytestmark = pytest.mark.crash

PROGRAM = """
import os
import sys
from pathlib import Path

from crewai.flow.flow import Flow, listen, start
from dbos import DBOS, SetWorkflowID
from pydantic import BaseModel

import crewai_dbos
from crewai_dbos import DBOSFlow


class Note(BaseModel):
    text: str


def write() -> Note:
    with Path("effects").open("a") as file:
        file.write("written\\n")
    return Note(text="kept")


class Keeping(Flow):
    @start()
    def one(self) -> Note:
        return crewai_dbos.step(write)

    @listen(one)
    def two(self, note: Note) -> Note:
        assert type(note) is Note
        if not Path("crashed").exists():
            Path("crashed").touch()
            os._exit(9)
        return note


keeping = DBOSFlow(flow_name="keeping", orig_flow=Keeping)


def main() -> None:
    DBOS(config={"name": "keeping", "application_version": "1", "log_level": "WARNING"})
    DBOS.launch()
    with SetWorkflowID("one"):
        print("found:", type(keeping.kickoff()) is Note, keeping.retrieve("one").get_result())


if __name__ == "__main__":
    main()
"""


def run(folder: Path, *args: str, real: bool = False) -> subprocess.CompletedProcess[str]:
    """Run Python, `real` or forked from a process that has imported crewAI."""
    env = {**os.environ, "HOME": str(folder)}
    if not real:
        return python(*args, folder=folder, env=env)
    return subprocess.run(
        [sys.executable, *args],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


AS_A_PROGRAM = ("app.py",)
AS_A_MODULE = ("-c", "import app; app.main()")


@pytest.mark.parametrize(
    ("first", "second"),
    [(AS_A_PROGRAM, AS_A_MODULE), (AS_A_MODULE, AS_A_PROGRAM), (("-m", "app"), AS_A_MODULE)],
    ids=["program first", "module first", "run with -m"],
)
def test_either_goes_on_with_what_the_other_began(
    first: tuple[str, ...], second: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    begun = run(tmp_path, *first, real=first is AS_A_PROGRAM)
    assert begun.returncode == 9, begun.stderr
    ended = run(tmp_path, *second)
    assert "found: True text='kept'" in ended.stdout, ended.stdout + ended.stderr
    assert (tmp_path / "effects").read_text() == "written\n"
    assert "no module name" not in begun.stderr + ended.stderr


def test_a_program_without_a_name_is_told_so_and_goes_on_as_it_was_started(tmp_path: Path) -> None:
    (tmp_path / "my-app.py").write_text(PROGRAM)
    begun = run(tmp_path, "my-app.py")
    assert begun.returncode == 9, begun.stderr
    assert "no module name" in begun.stderr
    ended = run(tmp_path, "my-app.py")
    assert "found: True text='kept'" in ended.stdout, ended.stdout + ended.stderr
    assert (tmp_path / "effects").read_text() == "written\n"
