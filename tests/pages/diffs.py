"""The diffs of the project's pages, as a reader applies them."""

from __future__ import annotations

from pathlib import Path


def after(diff: str) -> str:
    """What a program is when `diff` has been applied to it: all lines but those taken out."""
    return "\n".join(line[1:] for line in diff.splitlines() if not line.startswith("-"))


def apply(diff: str, folder: Path) -> None:
    """Change the file that the first line of `diff` names; ``@@`` parts the places in it."""
    head, *lines = diff.splitlines()
    file = folder / head.removeprefix("--- ")
    text = file.read_text()
    for hunk in "\n".join(lines).split("\n@@\n"):
        kept = hunk.splitlines()
        before = "\n".join(line[1:] for line in kept if not line.startswith("+"))
        assert text.count(before) == 1, f"{file.name} has {text.count(before)} times: {before}"
        text = text.replace(before, after(hunk))
    file.write_text(text)
