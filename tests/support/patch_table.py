"""The table of patches as `ARCHITECTURE.md` shows it. Run as a program, it prints it."""

from __future__ import annotations

from itertools import groupby

from crewai_dbos import _patches
from crewai_dbos._patches import Patch

HEAD = ("From when on", "Whose", "What", "By", "Why")


def _row(patch: Patch) -> tuple[str, ...]:
    module = patch.replacement.partition(":")[0].replace(".", "/")
    whose = patch.owner.replace(":", ".")
    return (patch.when, f"`{whose}`", f"`{module}.py`", patch.why)


def rendered() -> str:
    """One line for all that is changed of one owner at one moment."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for (when, whose, by, why), patches in groupby(_patches.TABLE, _row):
        names = [
            f"`{patch.name}`" + (f" ({patch.how})" if patch.how != _patches.SET else "")
            for patch in patches
        ]
        lines.append(f"| {when} | {whose} | {', '.join(names)} | {by} | {why} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(rendered(), end="")
