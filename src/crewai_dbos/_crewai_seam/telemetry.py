"""The signal handlers of crewAI's telemetry, which it sets when it is imported."""

from __future__ import annotations

import signal
from typing import Any

TELEMETRY = "crewai.telemetry.telemetry"
"""The module that they are of."""


def ends_the_process(handler: Any) -> bool:
    """Whether a handler of SIGTERM is none of the program's: Python's, or that of the telemetry.

    The latter ends the process, too, after it has sent what it has; it does so at any exit.
    """
    return handler is signal.SIG_DFL or getattr(handler, "__module__", None) == TELEMETRY
