"""`crewai-dbos demo`, as a person at a terminal and a program get it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import crewai_dbos
from test_file_modes import modes, readable_by_others

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def figures(folder: Path) -> Any:
    process = start(folder, "--json", "--keep")
    output, errors = process.communicate(timeout=110)
    assert (process.returncode, errors) == (0, "")
    return json.loads(output)


def test_each_email_goes_out_once_with_us_and_again_without(figures: Any) -> None:
    durable, plain = figures["durable"], figures["plain"]
    people = ["ada@example.com", "grace@example.com", "edsger@example.com"]
    assert durable["emails"] == people
    assert durable["emails_sent_twice"] == []
    assert plain["emails"] == [*people[:2], *people]
    assert plain["emails_sent_twice"] == people[:2]


def test_the_same_crash_and_the_same_result(figures: Any) -> None:
    for way in figures["durable"], figures["plain"]:
        assert (way["processes"], way["llm_calls_cut_off"]) == (2, 1)
        assert way["result"] == "Ada, Grace and Edsger are invited to the review on Friday."


def test_what_is_replayed_is_what_crewai_alone_pays_again(figures: Any) -> None:
    durable, plain = figures["durable"], figures["plain"]
    assert (durable["replayed_llm_calls"], durable["replayed_tool_calls"]) == (2, 2)
    assert plain["llm_calls"] - durable["llm_calls"] == durable["replayed_llm_calls"]
    assert plain["tokens"] - durable["tokens"] == durable["tokens_saved"] > 0
    assert (plain["replayed_llm_calls"], plain["tokens_saved"]) == (0, 0)


def test_every_call_is_in_the_journal_once(figures: Any) -> None:
    durable = figures["durable"]
    kinds = Counter(step["kind"] for step in durable["steps"])
    assert kinds["llm"] == durable["llm_calls"] - durable["llm_calls_cut_off"]
    assert kinds["tool"] == len(durable["emails"])
    assert sum(step["tokens"] for step in durable["steps"]) == durable["tokens"]


def test_the_kept_database_can_be_opened(figures: Any) -> None:
    with sqlite3.connect(figures["database"]) as database:
        rows = database.execute("select function_name from operation_outputs order by function_id")
        assert [name for (name,) in rows] == [step["name"] for step in figures["durable"]["steps"]]


def test_what_it_makes_is_its_owners_only(figures: Any, folder: Path) -> None:
    """Also where the umask would let everybody read it."""
    found = modes(folder)
    assert str(Path(figures["database"]).relative_to(folder)) in found
    assert any(path.endswith("sent.jsonl") for path in found)
    assert any(path.endswith("durable-restarted.log") for path in found)
    assert readable_by_others(found) == {}


def test_without_a_terminal_the_story_is_plain_lines(tmp_path: Path) -> None:
    process = start(tmp_path)
    output, errors = process.communicate(timeout=110)
    assert (process.returncode, errors) == (0, "")
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) <= 80
    story = [" ".join(line.split()[1:]) for line in output.splitlines()]
    assert story.count("email to ada@example.com") == 2, "once in each half"
    assert story.count("email to ada@example.com, again") == 1
    assert story.count("email to edsger@example.com") == 2
    assert output.count("kill -9") == 2
    assert "tokens saved by replay" in output
    assert list(tmp_path.iterdir()) == [], "nothing is left in the temporary folder"


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "crewai.py").write_text("raise ImportError('no crewai today')")
    process = start(tmp_path, PYTHONPATH=str(modules))
    _, errors = process.communicate(timeout=110)
    assert process.returncode == 1
    assert errors.startswith("The demo failed. The process 'durable' ")
    assert "no crewai today" in errors


def test_the_command_line_does_not_wait_for_crewai() -> None:
    loaded = "import sys, crewai_dbos.cli; sys.exit('crewai' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": SOURCE}
    assert subprocess.run([sys.executable, "-c", loaded], env=env).returncode == 0
