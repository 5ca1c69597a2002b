"""Which releases of crewAI and DBOS there are tests of, and what is said of newer ones."""

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


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[str]]]:
    """The warnings of a program that finds these releases installed."""
    folders = {name: tmp_path_factory.mktemp(name) for name in RELEASES}
    for name, folder in folders.items():
        for package, release in RELEASES[name].items():
            told = f"Metadata-Version: 2.1\nName: {package}\nVersion: {release}\n"
            (made := folder / f"{package}-{release}.dist-info").mkdir()
            (made / "METADATA").write_text(told)
    programs = [WARNED.format(folder=str(folder)) for folder in folders.values()]
    outputs = said_by(programs, tmp_path_factory.mktemp("programs"))
    return {
        name: json.loads(output.splitlines()[-1])
        for name, (output, _) in zip(RELEASES, outputs, strict=True)
    }


@pytest.mark.crash
def test_what_is_newer_is_warned_of_once_with_both_releases(
    said: dict[str, list[list[str]]],
) -> None:
    newer = said["newer"]
    assert [category for category, _ in newer] == ["UserWarning", "UserWarning"]
    for (_, message), (package, release) in zip(newer, RELEASES["newer"].items(), strict=True):
        assert f"{package} {release} is installed" in message
        assert f"tested with {package} {TESTED[package]}" in message
        assert f"install {package}=={TESTED[package]}" in message


@pytest.mark.crash
def test_what_is_older_is_not(said: dict[str, list[list[str]]]) -> None:
    assert said["older"] == []
