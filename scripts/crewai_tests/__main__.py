"""Run crewAI's own tests twice, plain and with durable objects underneath, and compare.

usage: python scripts/crewai_tests [PYTEST ARGUMENTS]

The tests and their recorded exchanges come from crewAI's source distribution, at the version of
constraints.txt. They are unpacked below build/, and are no part of this project. A test that passes
plain and fails on durable objects has to stand in docs/crewai-tests.md, with the reason. Exits with
1 if one does not, or if one that stands there passes. Takes an hour on two cores; with arguments
(`tests/test_crew.py -k kickoff`) as long as these tests do.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/crewai-tests.md"
VENV = ROOT / ".venvs/crewai-tests"
PYTHON = VENV / "bin/python"
WORK = ROOT / "build/crewai-tests"
VERSION = re.findall(r"^crewai==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[0]
SUITE = WORK / f"crewai-{VERSION}"
BESIDE = ("pytest-asyncio==1.5.0", "pytest-recording==0.14.1", "vcrpy==9.4.2")
"""What crewAI's tests need beside our own."""
OPTIONS = (
    *("-p", "crewai_tests.plugin", "-p", "no:cacheprovider", "-W", "ignore"),
    *("--quiet", "--no-header", "--tb=no", "--continue-on-collection-errors"),
    *("--block-network", "--allowed-hosts", r"127\.0\.0\.1,localhost,::1"),
    # Compares two measured times: a busy machine fails it.
    *("--deselect", "tests/hooks/test_dispatch.py::TestNoOpOverhead"),
    *("--numprocesses", "2", "--dist", "loadfile", "--timeout", "60"),
)
CONFTEST = "from crewai_tests.workspace import *\n"
PYTEST_INI = "[pytest]\nmarkers =\n    telemetry: a test of crewAI's telemetry\n"


def make_venv() -> None:
    """Make the environment of the tests, unless it is there."""
    _run(sys.executable, ROOT / "scripts/make_venv.py", VENV.relative_to(ROOT), "dev,providers")
    _pip("install", "--constraint", ROOT / "constraints.txt", *BESIDE)


def unpack() -> None:
    """Put the tests below build/, unless they are there."""
    if not SUITE.exists():
        from_source = ("--no-deps", "--no-binary", "crewai")
        _pip("download", *from_source, f"crewai=={VERSION}", "--dest", WORK)
        with tarfile.open(WORK / f"{SUITE.name}.tar.gz") as archive:
            archive.extractall(WORK, filter="data")
    # It is one package of a workspace, whose settings and fixtures are not in the distribution.
    (SUITE / "pyproject.toml").unlink(missing_ok=True)
    (SUITE / "pytest.ini").write_text(PYTEST_INI)
    (SUITE / "conftest.py").write_text(CONFTEST)


def _pip(command: str, *arguments: Path | str) -> None:
    _run(PYTHON, "-m", "pip", command, "--quiet", "--disable-pip-version-check", *arguments)


def _run(*command: Path | str) -> None:
    subprocess.run(command, check=True)


def outcomes(durable: bool, arguments: list[str]) -> dict[str, str]:
    """Run the tests. Returns the outcome of each by its id."""
    kind = "durable" if durable else "plain"
    results = WORK / f"{kind}.json"
    results.unlink(missing_ok=True)
    home = WORK / "home"
    home.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "HOME": str(home),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "scripts"), str(SUITE)]),
    }
    print(f"crewAI's tests, {kind}", flush=True)
    asked = ["--results", str(results), *(["--durable"] if durable else []), *arguments]
    subprocess.run(
        [PYTHON, "-m", "pytest", *OPTIONS, *asked], cwd=SUITE, env=environment, check=False
    )
    if not results.exists():
        sys.exit("pytest has not come to its end")
    found: dict[str, str] = json.loads(results.read_text())
    return found


def listed() -> set[str]:
    """The tests that the page lists, each in a line of its own."""
    found = re.findall(r"^- `(tests/\S+::\S+)`$", PAGE.read_text(), re.MULTILINE)
    if len(found) != len(set(found)):
        sys.exit(f"{PAGE.name} lists a test twice: {max(found, key=found.count)}")
    return set(found)


def compare(plain: dict[str, str], durable: dict[str, str]) -> bool:
    """Tell how the two differ from each other and from the page. Returns whether they may."""
    passing = {name for name, outcome in plain.items() if outcome == "passed"}
    lost = {name for name in passing if durable.get(name) != "passed"}
    print(f"\n{len(passing)} of {len(plain)} tests pass plain, {len(lost)} of these fail durable.")
    known, ran, failed = listed(), _without_parameters(passing), _without_parameters(lost)
    unexplained, outdated = sorted(failed - known), sorted((known & ran) - failed)
    for name in unexplained:
        print(f"fails durable, and is not in {PAGE.name}: {name}")
    for name in outdated:
        print(f"passes durable, and is in {PAGE.name}: {name}")
    return not unexplained and not outdated


def _without_parameters(names: set[str]) -> set[str]:
    return {name.partition("[")[0] for name in names}


def main(arguments: list[str]) -> int:
    WORK.mkdir(parents=True, exist_ok=True)
    make_venv()
    unpack()
    return 0 if compare(outcomes(False, arguments), outcomes(True, arguments)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
