"""The papers of the project name what there is."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))


def test_every_file_that_contributors_are_sent_to_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"\b(?:[\w.]+/)*[\w-]+\.(?:py|md|txt|toml)\b", text))
    for name in named:
        places = [ROOT / name, ROOT / "src" / "crewai_dbos" / name]
        assert any(place.exists() for place in places), name


def test_decisions_are_numbered_and_listed() -> None:
    architecture = (ROOT / "ARCHITECTURE.md").read_text()
    for number, page in enumerate(DECISIONS, 1):
        title = page.read_text().splitlines()[0]
        assert page.name.startswith(f"{number:04}-")
        assert title.startswith(f"# {number}. ")
        assert f"[{title.partition('. ')[2]}](docs/decisions/{page.name})" in architecture


def test_the_changelog_begins_with_the_version_that_is_next() -> None:
    titles = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert titles[0] == "Unreleased"
    assert titles[1].partition(" - ")[0] == version
