"""Pages of the documentation: their blocks, and what a reader makes of them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def page(name: str) -> str:
    """The text of a page: ``"README.md"``, ``"docs/crews.md"``."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str = "python") -> list[str]:
    """The fenced blocks of that language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def after(diff: str) -> str:
    """What a program is when `diff` has been applied to it: all lines but those taken out."""
    return "\n".join(line[1:] for line in diff.splitlines() if not line.startswith("-"))


def apply(diff: str, folder: Path) -> None:
    """Change a file as a reader would: the first line of `diff` names it, ``@@`` parts places."""
    head, *lines = diff.splitlines()
    file = folder / head.removeprefix("--- ")
    text = file.read_text()
    for hunk in "\n".join(lines).split("\n@@\n"):
        kept = hunk.splitlines()
        before = "\n".join(line[1:] for line in kept if not line.startswith("+"))
        assert text.count(before) == 1, f"{file.name} has {text.count(before)} times: {before}"
        text = text.replace(before, after(hunk))
    file.write_text(text)
