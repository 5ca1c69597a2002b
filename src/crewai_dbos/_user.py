"""Who sits at this process."""

from __future__ import annotations

import getpass


def name() -> str:
    """The user of the operating system; some containers have none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "somebody"
