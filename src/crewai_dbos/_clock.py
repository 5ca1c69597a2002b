"""A clock that does not stop while the machine sleeps."""

from __future__ import annotations

import sys
import time


def seconds() -> float:
    """Seconds since some moment, by a clock that nobody sets; sleep counts where it is known."""
    return time.clock_gettime(_ID) if _ID is not None else time.monotonic()


# On macOS the monotonic clock of the system counts sleep, and that of Python does not.
_NAME = "CLOCK_MONOTONIC" if sys.platform == "darwin" else "CLOCK_BOOTTIME"
_ID: int | None = getattr(time, _NAME, None)
