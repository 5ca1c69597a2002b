"""A clock that does not stop while the machine sleeps."""

from __future__ import annotations

import time


def seconds() -> float:
    """Seconds since some moment, by a clock that nobody sets; sleep counts where it is known."""
    return time.clock_gettime(_ID) if _ID is not None else time.monotonic()


_ID: int | None = getattr(time, "CLOCK_BOOTTIME", None)
