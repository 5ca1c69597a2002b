"""The documentation site: it is built, and what it links to is there."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from pages.blocks import ROOT, headings, pages, text_of
from test_docstring_examples import MODULES

pytestmark = pytest.mark.crash


MARKED = ("p", "code", "strong", "em")


@dataclass
class Read(HTMLParser):
    """A page of the site: what can be linked to, what it links to, and what it loads."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.loads.append(given["href"])
        elif "src" in given:
            self.loads.append(given["src"])
        if tag in MARKED:
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in MARKED:
            self._inside.remove(tag)

    def handle_data(self, data: str) -> None:
        if "p" in self._inside:
            self.texts.append("." if len(self._inside) > 1 else data)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def read(site: Path) -> dict[Path, Read]:
    """Every page of the site but that for addresses that lead nowhere."""
    found = {}
    for file in sorted(site.rglob("*.html")):
        if file.name != "404.html":
            found[file] = Read()
            found[file].feed(file.read_text(encoding="utf-8"))
    return found


def test_every_link_leads_somewhere(read: dict[Path, Read]) -> None:
    broken = []
    for file, page in read.items():
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            anchor = unquote(parts.fragment)
            known = read[target].anchors if target in read else set()
            if not target.is_file() or (anchor and anchor not in known):
                broken.append(f"{file.name}: {link}")
    assert not broken


def test_nothing_is_loaded_from_elsewhere(site: Path, read: dict[Path, Read]) -> None:
    assert [each for page in read.values() for each in page.loads if urlsplit(each).netloc] == []
    for file in site.rglob("*.css"):
        styles = file.read_text(encoding="utf-8")
        assert not re.search(r"""(@import|url\()\s*["']?(https?:)?//""", styles), file.name
    for file in read:
        html = file.read_text(encoding="utf-8")
        # The theme's script fetches something for each of these.
        assert 'data-md-component="source"' not in html, "facts of the repository"
        assert 'class="mermaid"' not in html, "what draws diagrams"


def test_every_page_is_in_the_navigation(site: Path, read: dict[Path, Read]) -> None:
    linked = {(site / link.partition("#")[0]).resolve() for link in read[site / "index.html"].links}
    assert {file.relative_to(site).as_posix() for file in set(read) - linked} == set()


def test_no_markdown_is_left(read: dict[Path, Read]) -> None:
    """What GitHub takes for a list, a table or a link, the site does, too."""
    for file, page in read.items():
        text = "".join(page.texts)
        assert not re.search(r"^(- |\d+\. |\|)|```|\]\(", text, re.MULTILINE), file.name


def test_every_public_name_is_in_the_reference(read: dict[Path, Read]) -> None:
    there = {anchor for page in read.values() for anchor in page.anchors}
    for name in MODULES:
        module = importlib.import_module(name)
        own = [
            each
            for each, found in vars(module).items()
            if not each.startswith("_") and getattr(found, "__module__", "") == name
        ]
        for each in getattr(module, "__all__", own):
            assert there & {f"{name}.{each}", f"crewai_dbos.errors.{each}"}, f"{name}.{each}"


def test_names_on_a_page_lead_into_the_reference(site: Path, read: dict[Path, Read]) -> None:
    links = read[site / "crews.html"].links
    assert "reference/definitions.html#crewai_dbos.crew.DBOSCrew" in links
    assert "reference/errors.html#crewai_dbos.errors.BatchError" in links


# As files of the repository --------------------------------------------------------------------


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere_in_the_repository(page: str) -> None:
    for path, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text_of(page)):
        if path.startswith(("https://", "http://127.0.0.1")):
            continue
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{path} of {page}"
        if anchor:
            assert anchor in headings(target.read_text(encoding="utf-8")), f"{path}#{anchor}"


def test_the_repository_is_the_one_of_the_package() -> None:
    (named,) = re.findall(r"^  repository: (.*)$", text_of("mkdocs.yml"), re.MULTILINE)
    (urls,) = re.findall(
        r"^\[project\.urls\]\n(.*?)^$", text_of("pyproject.toml"), re.DOTALL | re.MULTILINE
    )
    assert f'Repository = "{named}"' in urls
