"""Whether a run may have been given to another process while this one stood still."""

from __future__ import annotations

from collections.abc import Callable

_check: Callable[[str, str | None], BaseException | None] | None = None


def check_with(check: Callable[[str, str | None], BaseException | None] | None) -> None:
    """From now on ask `check` before each call that is made.

    Args:
        check: Gets the id of the run and which execution of it this is; returns what ends that, or
            None if it goes on. None to ask nobody.
    """
    global _check
    _check = check


def lost(run_id: str, owner_xid: str | None) -> BaseException | None:
    """What ends this execution of a run that another process has taken; None if it goes on."""
    return None if _check is None else _check(run_id, owner_xid)
