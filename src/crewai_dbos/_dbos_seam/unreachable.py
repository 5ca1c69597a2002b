"""Errors that say of the database that it can't be reached, or that a role may not use it."""

from __future__ import annotations

import psycopg
from sqlalchemy.exc import DBAPIError

_ENDED = ("57P01", "57P02", "57P03", "53300")
"""It shuts down, has crashed, starts up, or takes no more connections."""


def is_unreachable(error: BaseException) -> bool:
    """Whether a call of the database has ended so because nothing answers there."""
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return True
        error = error.orig or error
    if isinstance(error, psycopg.InterfaceError):
        return True  # the connection is closed
    if not isinstance(error, psycopg.OperationalError):
        return False
    # No answer of a server has a code.
    return error.sqlstate is None or error.sqlstate.startswith("08") or error.sqlstate in _ENDED


def is_forbidden(error: BaseException) -> bool:
    """Whether the role may not do what the call wanted."""
    error = (error.orig or error) if isinstance(error, DBAPIError) else error
    return isinstance(error, psycopg.errors.InsufficientPrivilege)


def told(error: BaseException) -> str:
    """What such an error says, in a line."""
    error = (error.orig or error) if isinstance(error, DBAPIError) else error
    return next(iter(str(error).splitlines()), "") or type(error).__name__
