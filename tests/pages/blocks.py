"""The fenced blocks of the project's pages, for the tests that run them.

A test asks for those of a page with `blocks`, its arguments written out: tests/pages/test_blocks.py
reads them there, and finds each block that no test has asked for.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

EXCERPT = "<!-- excerpt -->"
"""The line before a block of Python that can't be run as it stands."""

_FENCE = re.compile(
    r"^(?P<before>[^\n]*\n)?(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One fenced block: where it is, and what is in it."""

    page: str
    line: int
    section: str
    language: str
    text: str
    is_excerpt: bool

    def __str__(self) -> str:
        return f"{self.page}:{self.line} ({self.language or 'no language'})"


def pages() -> list[str]:
    """Every page of the project, as a path from its root."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
    return sorted(page.relative_to(ROOT).as_posix() for page in found)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def all_blocks(page: str) -> list[Block]:
    """The blocks of a page, from its first line to its last."""
    text = text_of(page)
    found = []
    for match in _FENCE.finditer(text):
        inside = match["text"]
        indent = match["indent"]
        if indent:
            inside = "".join(line.removeprefix(indent) for line in inside.splitlines(True))
        found.append(
            Block(
                page,
                text.count("\n", 0, match.start("text")),
                _section(text[: match.start()]),
                match["language"].strip(),
                inside,
                (match["before"] or "").strip() == EXCERPT,
            )
        )
    return found


def blocks(page: str, language: str = "python", section: str | None = None) -> list[str]:
    """The blocks that a test runs.

    Args:
        page: From the root of the project, as ``docs/flows.md``.
        language: What stands behind the three backticks.
        section: The heading that they stand under, as in a link: ``changed-code``. By default those
            of the whole page.
    """
    return [
        block.text
        for block in all_blocks(page)
        if block.language == language and not block.is_excerpt and section in (None, block.section)
    ]


def headings(text: str) -> list[str]:
    """The headings of a page as links have them, on GitHub and on the site."""
    found: list[str] = []
    times: Counter[str] = Counter()
    in_block = False
    for line in text.splitlines():
        in_block ^= line.lstrip().startswith("```")
        heading = re.match(r"#+ +(.*?)\s*$", line)
        if heading and not in_block:
            slug = slug_of(heading[1])
            found.append(f"{slug}-{times[slug]}" if times[slug] else slug)
            times[slug] += 1
    return found


def slug_of(heading: str) -> str:
    """What GitHub makes of a heading: small letters, no punctuation, hyphens for blanks."""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", plain).strip().lower().replace(" ", "-")


def _section(before: str) -> str:
    return (headings(before) or [""])[-1]
