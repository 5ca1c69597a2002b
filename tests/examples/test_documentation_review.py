"""`examples/documentation_review.py`: two researchers, a writer, an editor and a report."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import documentation_review
import pytest

from crewai_dbos.testing import Effect, Hang, ModelServer, Reply, Request, hang, text
from crewai_dbos.testing.crash import CrashTest
from crewai_dbos.testing.crash._processes import Process
from examples.models import reviewer
from examples.programs import DOCUMENTATION, start
from support.crashing import killed_in_chains
from support.databases import sqlite_here
from support.entries import how_many
from support.python import python

pytestmark = pytest.mark.crash

MAIN = "documentation_review_main"
REPORT = """# Review

- Kettle boils water. It never boils it twice.
- It always asks before it overwrites a file.
- More than two litres are refused. An empty kettle is never heated.
- kettle boil --litres {number}
- pip install kettle"""


def written(process: Process) -> str:
    """The report that the program's last line leads to, when it has ended."""
    assert process.wait().code == 0, process.output()
    return report_of(process.output())


def report_of(output: str) -> str:
    path = output.splitlines()[-1].removeprefix("The report is in ")
    return Path(path).read_text()


def read(effect: Effect) -> tuple[str, str]:
    """Which researcher has read which file."""
    (task,) = re.findall(r"/task:\d+\.(\w+)#", effect.fields["entry"])
    return task, effect.fields["file"]


class SilentWriter:
    """As `reviewer`, but silent when the editor has sent the first report back."""

    def __init__(self) -> None:
        self.silence: Hang = hang()
        self.sent_back = 0

    def __call__(self, request: Request) -> Reply:
        if "no heading" in request.last_user_text:
            self.sent_back += 1
            if self.sent_back == 1:
                return self.silence
        return reviewer(request)


def test_killed_and_started_again(tmp_path: Path) -> None:
    model = SilentWriter()
    with ModelServer(model) as server:
        first = start(MAIN, tmp_path, server.env, str(DOCUMENTATION))
        model.silence.wait_until_held(timeout=60)
        first.kill()
        assert first.wait().killed
        assert not list(tmp_path.glob("*.md"))

        second = start(MAIN, tmp_path, server.env, str(DOCUMENTATION))
        assert written(second) == REPORT
        assert len(server.requests) == 3 + 3 + 2 + 1, "the last one was cut off and made again"

        third = start(MAIN, tmp_path, server.env, str(DOCUMENTATION))
        assert written(third) == REPORT
        assert len(server.requests) == 9, "the same run, which has ended"


def test_as_a_program_it_reviews_this_repository(tmp_path: Path) -> None:
    with ModelServer(reviewer) as server:
        env = {**os.environ, **server.env}
        done = python(documentation_review.__file__, folder=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    report = report_of(done.stdout)
    assert report.startswith("# Review")
    assert "make demo" in report


def test_texts_for_a_model_that_calls_no_tools(tmp_path: Path) -> None:
    def reader(request: Request) -> Reply:
        assert not request.offered_tools
        found = re.search(r"pip install \w+", request.last_user_text)
        return text(f"# Review\n\n{found[0] if found else 'nothing'}")

    with ModelServer(reader) as server:
        program = start(MAIN, tmp_path, server.env, str(DOCUMENTATION), "--texts")
        assert written(program) == "# Review\n\npip install kettle"


@pytest.mark.parametrize("path", ["../secret.md", "/etc/passwd", ".env", "docs/link.md"])
def test_other_files_are_not_read(path: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "docs").mkdir(parents=True)
    (folder / "README.md").write_text("Public.")
    (folder / ".env").write_text("secret")
    (tmp_path / "secret.md").write_text("secret")
    (folder / "docs" / "link.md").symlink_to(tmp_path / "secret.md")

    list_files, read_file = documentation_review.file_tools(folder)
    assert list_files.run() == "README.md"
    assert read_file.run(path="README.md") == "Public."
    assert read_file.run(path=path) == f"{path} is not one of the listed files."


@pytest.mark.some_entries
@sqlite_here("database_kind")
def test_crash_matrix(database_kind: str) -> None:
    with CrashTest(
        "examples.programs:review",
        model=reviewer,
        setup="examples.programs:set_up",
        left_behind="examples.programs:report",
        database=database_kind,
    ) as test:
        undisturbed = test.undisturbed
        assert undisturbed.ended["left behind"] == REPORT
        files = ("README.md", "install.md", "limits.md")
        assert Counter(map(read, undisturbed.effects)) == {
            (researcher, file): 1 for researcher in ("promises", "commands") for file in files
        }
        chosen = test.positions(how_many(3, 8) if database_kind == "sqlite" else 2, seed=3)
        verdicts = killed_in_chains(test, chosen)
    wrong = [str(verdict) for verdict in verdicts if not verdict.ok]
    assert not wrong, "\n".join(wrong)
