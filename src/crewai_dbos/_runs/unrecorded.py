"""Kickoffs in a process that has not launched DBOS: they are crewAI's own, and keep nothing."""

from __future__ import annotations

import logging

from crewai_dbos._dbos_seam.instance import is_constructed
from crewai_dbos.errors import NotLaunchedError

logger = logging.getLogger("crewai_dbos")

_told = False
_refused = False


def allow_unrecorded() -> None:
    """Say nothing when a durable agent, crew or flow is kicked off without ``DBOS.launch()``.

    Such a kickoff is that of the object that was wrapped: nothing of it is recorded, and a crash
    loses it. A process that means to do so, as a test or a notebook may, calls this once.

    Example::

        from crewai_dbos import allow_unrecorded

        allow_unrecorded()
    """
    global _told, _refused
    _told, _refused = True, False


def refuse_unrecorded() -> None:
    """Refuse to kick off a durable agent, crew or flow without ``DBOS.launch()``.

    Such a kickoff raises `NotLaunchedError` before anything is done, where it otherwise is crewAI's
    own and logs a warning. For a process in production, called once.

    Example::

        from crewai_dbos import refuse_unrecorded

        refuse_unrecorded()
    """
    global _refused
    _refused = True


def tell(what: str) -> None:
    """Say once in a process that the kickoff of `what` is not recorded.

    Raises:
        NotLaunchedError: The process refuses those.
    """
    global _told
    if _told and not _refused:
        return
    _told = True
    missing = "DBOS is configured, but DBOS.launch() was not called"
    if not is_constructed():
        missing = (
            "DBOS is not launched: DBOS(config=...) and DBOS.launch() were not called, or it was "
            "destroyed since"
        )
    if _refused:
        raise NotLaunchedError(
            f"{what} would be kicked off and nothing of it recorded, which this process refuses: "
            f"{missing}. Call DBOS.launch() before the kickoff."
        )
    logger.warning(
        "%s is kicked off and NOTHING OF IT IS RECORDED: %s. A crash loses the run. Call "
        "DBOS.launch() before the kickoff. If that is meant, as in a test, call "
        "crewai_dbos.allow_unrecorded() first; this is said once.",
        what,
        missing,
    )
