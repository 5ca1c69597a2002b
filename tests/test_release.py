"""What is built is whole: it installs in a fresh environment, and the demo works there."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections import Counter
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

from pages.blocks import ROOT, text_of
from test_file_modes import modes, readable_by_others

pytestmark = pytest.mark.crash

KINDS = {".css", ".js", ".json", ".jsonc", ".md", ".png", ".py", ".svg", ".txt", ".yaml", ".yml"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution, and the wheel that was built of it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    (source,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return source, wheel


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_the_source_has_all_that_is_kept_of_it(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("src", "tests", "docs", "examples", "benchmarks", "scripts")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*")]
    kept = {str(file.relative_to(ROOT)) for file in files if file.suffix in KINDS}
    assert {"docs/tutorial.md", "examples/crew_project/src/latest_ai/main.py"} <= kept
    assert kept - held == set()
    assert {file.name for file in ROOT.glob("*.md")} | {"LICENSE", "Makefile"} <= held


def test_what_is_said_of_it(built: tuple[Path, Path]) -> None:
    told = metadata(built[1])
    urls = dict(each.split(", ") for each in told.get_all("Project-URL", []))
    assert {"Repository", "Documentation", "Changelog", "Issues"} <= urls.keys()
    assert all(url.startswith(urls["Repository"]) for url in urls.values())
    assert "durable-execution" in told["Keywords"]
    assert told["Description-Content-Type"] == "text/markdown"
    assert told.get_payload().strip() == text_of("README.md").strip()
    assert told["License-Expression"] == "MIT"
    classifiers = told.get_all("Classifier", [])
    for version in ("3.10", "3.11", "3.12", "3.13"):
        assert f"Programming Language :: Python :: {version}" in classifiers


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment that has the wheel."""
    place = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(place, symlinks=True)
    python = place / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    install += ["install", "--quiet", "--no-deps", "--no-index", built[1]]
    subprocess.run(install, check=True, capture_output=True, timeout=200)
    # What it needs is that of the tests; the paths there that lead to our sources are not followed.
    (packages,) = place.glob("lib/*/site-packages")
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "bin"


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more


def test_it_installs_in_a_fresh_environment(installed: Path, tmp_path: Path) -> None:
    asked = "import crewai_dbos, importlib.metadata as m; print(crewai_dbos.__file__)"
    command = [installed / "python", "-c", asked]
    found = subprocess.check_output(command, cwd=tmp_path, env=environment(), text=True)
    (packages,) = installed.parent.glob("lib/*/site-packages")
    assert Path(found.strip()).is_relative_to(packages)


# Its demo --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def figures(installed: Path, folder: Path) -> Any:
    done = subprocess.run(
        [installed / "crewai-dbos", "demo", "--json", "--keep"],
        cwd=folder,
        env=environment(TMPDIR=str(folder)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        umask=0,
        timeout=200,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


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
