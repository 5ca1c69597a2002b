"""Pages of the documentation site that are in the root of the project, and links in any page.

Links are those that work on GitHub: here they become links between pages of the site, or into the
repository where they lead to something that is no page. mkdocs calls what begins with ``on_``.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]

FROM_THE_ROOT = {
    "ARCHITECTURE.md": "internals/architecture.md",
    "CONTRIBUTING.md": "internals/contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
"""Pages of the project by their place on the site."""

_BLOCK_OR_LINK = re.compile(
    r"^ *```.*?^ *```$|(?<=\]\()(?P<path>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?=\))",
    re.DOTALL | re.MULTILINE,
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from the root of the project."""
    for source, place in FROM_THE_ROOT.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Have links lead where they lead on GitHub."""
    own = source_of(page.file.src_uri)
    if not (ROOT / own).exists():
        return markdown  # made for the site alone
    folder = posixpath.dirname(own)

    def of(match: re.Match[str]) -> str:
        path, anchor = match["path"], match["anchor"] or ""
        if not path or ":" in path:
            return match[0]
        target = posixpath.normpath(posixpath.join(folder, path))
        place = place_of(target)
        if files.get_file_from_path(place) is not None:
            return posixpath.relpath(place, posixpath.dirname(page.file.src_uri)) + anchor
        if (ROOT / target).exists():
            return f"{config.extra['repository']}/blob/main/{target}{anchor}"
        return match[0]

    return _BLOCK_OR_LINK.sub(of, markdown)


def source_of(place: str) -> str:
    """Where a page of the site is in the project."""
    sources = {each: source for source, each in FROM_THE_ROOT.items()}
    return sources.get(place, f"docs/{place}")


def place_of(source: str) -> str:
    """The place on the site of a file of the project."""
    return FROM_THE_ROOT.get(source, source.removeprefix("docs/"))
