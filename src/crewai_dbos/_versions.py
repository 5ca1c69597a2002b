"""The releases of crewAI and DBOS that the test suite has run on.

Much of what this package relies on there is private, so any release may move it.
"""

from __future__ import annotations

import functools
import re
import warnings
from importlib import metadata

TESTED = {"crewai": "1.15.30", "dbos": "3.4.0"}
"""The newest release of each that the suite has run on."""


def installed(package: str) -> str:
    """The release of `package` that is installed; "?" if nothing says which."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "?"


def compared(package: str) -> str:
    """Which release of `package` is installed and which the suite has run on, in words."""
    return (
        f"{package} {installed(package)} is installed; crewai-dbos {installed('crewai-dbos')} was "
        f"tested with {package} {TESTED[package]}"
    )


@functools.cache
def warn_of_newer() -> None:
    """Warn, once a process, of what is newer than the suite has run on."""
    for package, tested in TESTED.items():
        if _release(installed(package)) > _release(tested):
            warnings.warn(
                f"{compared(package)}. Runs may not be recorded as they should be: look for a "
                f"newer crewai-dbos, or install {package}=={tested}.",
                UserWarning,
                stacklevel=2,
            )


def _release(version: str) -> tuple[int, ...]:
    """The numbers that `version` begins with: (1, 16, 0) of "1.16.0rc1"."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()
