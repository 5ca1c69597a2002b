"""ARCHITECTURE.md lists every module, each where it is."""

from __future__ import annotations

import re
from pathlib import Path

import crewai_dbos

PACKAGE = Path(crewai_dbos.__file__).parent
PAGE = (Path(__file__).parents[1] / "ARCHITECTURE.md").read_text(encoding="utf-8")

# What these rooms hold is said in one line each.
BY_THE_ROOM = {"_demo", "doctor", "testing"}


def listed() -> set[str]:
    """The modules of the list in "From the outside in", relative to the package."""
    block = PAGE.partition("## From the outside in")[2].split("```")[1]
    rooms: list[tuple[int, str]] = []
    found = set()
    for line in block.splitlines():
        names = re.match(r"( *)((?:[\w./]+(?:, )?)+)", line)
        if names is None or not re.match(r" *[\w.]+(\.py|/)[ ,]", f"{line} "):
            continue
        indent = len(names[1])
        rooms = [(depth, room) for depth, room in rooms if depth < indent]
        inside = "".join(room for _, room in rooms)
        for name in names[2].strip().split(", "):
            if name.endswith("/"):
                rooms.append((indent, name))
                if f"{inside}{name}".rstrip("/") in BY_THE_ROOM:
                    found.add(f"{inside}{name}".rstrip("/"))
            elif name.endswith(".py"):
                found.add(f"{inside}{name}")
    return found


def there() -> set[str]:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        inside = path.relative_to(PACKAGE)
        if inside.parts[0] in BY_THE_ROOM:
            found.add(inside.parts[0])
        elif path.name != "__init__.py":
            found.add(inside.as_posix())
    return found


def test_every_module_is_listed_where_it_is() -> None:
    assert listed() == there()
