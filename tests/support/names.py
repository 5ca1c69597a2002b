"""Names that no other test of this process has."""

from __future__ import annotations

import itertools

_numbers = itertools.count(1)


def unique(name: str) -> str:
    return f"{name}-{next(_numbers)}"
