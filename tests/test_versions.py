"""Which releases of crewAI and DBOS there are tests of, and what is said of others."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from crewai_dbos import _versions
from crewai_dbos._versions import TESTED
from support.new import said_by

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("package", TESTED)
def test_what_the_suite_runs_on_is_what_the_package_says(package: str) -> None:
    pinned = re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned is not None
    assert TESTED[package] == pinned[1]


@pytest.mark.parametrize("package", TESTED)
def test_only_releases_that_are_like_those_may_be_installed(package: str) -> None:
    stated = re.findall(
        rf'"{package}(?:\[[a-z-]+\])?>=([\d.]+),<([\d.]+)"', (ROOT / "pyproject.toml").read_text()
    )
    assert stated
    (lowest, below), *others = stated
    assert all(other == (lowest, below) for other in others), "two ranges of one package"
    major, minor, *_ = TESTED[package].split(".")
    assert numbers(lowest) <= numbers(TESTED[package]) < numbers(below)
    assert numbers(below) <= (int(major), int(minor) + 1)


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_the_oldest_that_may_be_installed_is_what_make_oldest_tests() -> None:
    script = ROOT / "scripts" / "oldest.py"
    printed = subprocess.check_output([sys.executable, script], text=True).splitlines()
    stated = (ROOT / "pyproject.toml").read_text()
    for package in TESTED:
        lowest = re.search(rf'"{package}>=([\d.]+),', stated)
        assert lowest is not None
        assert [line for line in printed if line.startswith(f"{package}==")] == [
            f"{package}=={lowest[1]}"
        ]
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert next(line for line in pinned if line.startswith("pydantic==")) in printed


def test_the_page_says_what_may_be_installed_and_what_was_tested() -> None:
    page = (ROOT / "docs" / "versions.md").read_text()
    stated = (ROOT / "pyproject.toml").read_text()
    (ours,) = re.findall(r'^version = "(\d+\.\d+)\..*"$', stated, re.M)
    (python,) = re.findall(r'^requires-python = "(.*)"$', stated, re.M)
    ranges = [re.findall(rf'"{package}(>=[\d.]+,<[\d.]+)"', stated)[0] for package in TESTED]
    cells = " | ".join(f"`{given}`" for given in (python, *ranges))
    assert f"| {ours} | {cells} |" in page
    assert f"crewAI {TESTED['crewai']} and DBOS {TESTED['dbos']}" in " ".join(page.split())


def test_nothing_is_said_of_what_the_suite_has_run_on() -> None:
    _versions.warn_of_newer.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _versions.warn_of_newer()


WARNED = """
import sys
sys.path.insert(0, {folder!r})
import json, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import crewai_dbos
    from crewai_dbos import DBOSAgent, DBOSCrew, DBOSFlow
told = [[each.category.__name__, str(each.message)] for each in caught]
print(json.dumps([each for each in told if "was tested with" in each[1]]))
"""
RELEASES = {
    "newer": {"crewai": "1.15.100", "dbos": "4.0.0rc1"},
    "older": {"crewai": "1.15.4", "dbos": "3.3.9"},
}
CASES = [
    ("RuntimeFlow", "_persist_method_completion", "crewai_dbos.flow"),
    ("Crew", "_create_crew_output", "crewai_dbos.crew"),
    ("AgentExecutor", "_ensure_step_executor", "crewai_dbos.agent"),
]
MOVED = """
from crewai import Crew, Task
from crewai.agents.agent_executor import AgentExecutor
from crewai.flow.flow import Flow
from crewai.flow.runtime import Flow as RuntimeFlow

of, name, module = {case!r}
moved = globals()[of]
setattr(moved, name + "_renamed", vars(moved)[name])
delattr(moved, name)
from crewai_dbos import DefinitionError
try:
    __import__(module)
except DefinitionError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[object, tuple[str, str]]:
    """What a program says at its start, with other releases and with moved methods."""
    programs: dict[object, str] = {case: MOVED.format(case=case) for case in CASES}
    for name, releases in RELEASES.items():
        folder = tmp_path_factory.mktemp(name)
        programs[name] = WARNED.format(folder=str(folder))
        for package, release in releases.items():
            about = f"Metadata-Version: 2.1\nName: {package}\nVersion: {release}\n"
            (made := folder / f"{package}-{release}.dist-info").mkdir()
            (made / "METADATA").write_text(about)
    said = said_by([*programs.values()], tmp_path_factory.mktemp("programs"))
    return dict(zip(programs, said, strict=True))


@pytest.mark.crash
def test_what_is_newer_is_warned_of_once_with_both_releases(
    told: dict[object, tuple[str, str]],
) -> None:
    newer = json.loads(told["newer"][0].splitlines()[-1])
    assert [category for category, _ in newer] == ["UserWarning", "UserWarning"]
    for (_, message), (package, release) in zip(newer, RELEASES["newer"].items(), strict=True):
        assert f"{package} {release} is installed" in message
        assert f"tested with {package} {TESTED[package]}" in message
        assert f"install {package}=={TESTED[package]}" in message


@pytest.mark.crash
def test_what_is_older_is_not(told: dict[object, tuple[str, str]]) -> None:
    assert json.loads(told["older"][0].splitlines()[-1]) == []


@pytest.mark.crash
@pytest.mark.parametrize("case", CASES)
def test_a_program_does_not_start_with_a_crewai_that_has_moved_a_method(
    case: tuple[str, str, str], told: dict[object, tuple[str, str]]
) -> None:
    """Its unfinished runs stay as they are; they would fail, or go on without a record."""
    assert f"has no {case[1]!r}" in "".join(told[case])
    assert f"crewai=={TESTED['crewai']}" in "".join(told[case])
