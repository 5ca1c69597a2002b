"""What is built is whole: it installs in a fresh environment, and works there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from pages.blocks import ROOT, text_of

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


def test_it_installs_in_a_fresh_environment_and_the_demo_runs(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    place = tmp_path / "venv"
    venv.create(place, symlinks=True)
    python = place / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    install += ["install", "--quiet", "--no-deps", "--no-index", built[1]]
    subprocess.run(install, check=True, capture_output=True, timeout=200)
    # What it needs is that of the tests; the paths there that lead to our sources are not followed.
    (packages,) = place.glob("lib/*/site-packages")
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    asked = "import crewai_dbos, importlib.metadata as m; print(crewai_dbos.__file__)"
    found = subprocess.check_output([python, "-c", asked], cwd=tmp_path, env=env, text=True)
    assert Path(found.strip()).is_relative_to(packages)

    demo = [place / "bin" / "crewai-dbos", "demo", "--json"]
    done = subprocess.run(demo, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["durable"]["emails_sent_twice"] == []
    assert figures["plain"]["emails_sent_twice"] != []
