"""Kickoffs in a process that has not launched DBOS: they are crewAI's own, and keep nothing."""

from __future__ import annotations

import logging

from crewai_dbos._dbos_seam.instance import is_constructed

logger = logging.getLogger("crewai_dbos")

_told = False


def allow_unrecorded() -> None:
    """Say nothing when a durable agent, crew or flow is kicked off without ``DBOS.launch()``.

    Such a kickoff is that of the object that was wrapped: nothing of it is recorded, and a crash
    loses it. A process that means to do so, as a test or a notebook may, calls this once.

    Example::

        from crewai_dbos import allow_unrecorded

        allow_unrecorded()
    """
    global _told
    _told = True


def warn(what: str) -> None:
    """Say once in a process that the kickoff of `what` is not recorded."""
    global _told
    if _told:
        return
    _told = True
    missing = "DBOS is configured, but DBOS.launch() was not called"
    if not is_constructed():
        missing = (
            "DBOS is not launched: DBOS(config=...) and DBOS.launch() were not called, or it was "
            "destroyed since"
        )
    logger.warning(
        "%s is kicked off and NOTHING OF IT IS RECORDED: %s. A crash loses the run. Call "
        "DBOS.launch() before the kickoff. If that is meant, as in a test, call "
        "crewai_dbos.allow_unrecorded() first; this is said once.",
        what,
        missing,
    )
