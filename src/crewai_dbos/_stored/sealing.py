"""Content that goes through the serializer of the application, which may encrypt it.

Where the DBOS config has a ``serializer``, what our rows hold beside names, kinds, times and token
counts is a text that it has written: ``{"$sealed": "...", "by": "its name"}``. The rows themselves
stay portable JSON, so that DBOS's tools list runs and steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dbos import Serializer

from crewai_dbos._dbos_seam.serializer import application_serializer
from crewai_dbos._stored.forms import Json
from crewai_dbos.errors import SealedError

_TAG = "$sealed"

Open = Callable[[Any], Any]
"""Makes plain JSON of what the serializer of the application has written."""

Seal = Callable[[Json], Json]
"""Makes of plain JSON what the serializer of the application writes of it."""


def is_wanted() -> bool:
    """Whether the application has a serializer of its own."""
    return application_serializer() is not None


def name_key(key_id: str | None = None) -> tuple[str, bytes] | None:
    """What makes the digests in names of calls say nothing to who can't read the content.

    Args:
        key_id: The id of the key that a run began with; None for a new run.

    Returns:
        The id and the key; None where the serializer has none to give.

    Raises:
        SealedError: The run began with a key that is not here.
    """
    give = getattr(application_serializer(), "digest_key", None)
    if give is None:
        if key_id is not None:
            raise SealedError(
                f"the run was recorded with the key {key_id!r}, and the DBOS config of this "
                "process has no serializer that knows it"
            )
        return None
    found: tuple[str, bytes] = give(key_id)
    return found


def seal(content: Json, serializer: Serializer | None = None) -> Json:
    """`content`, plain JSON data, as it is stored.

    Args:
        serializer: That of an application whose DBOS instance is in another process.
    """
    serializer = serializer or application_serializer()
    if serializer is None:
        return content
    return {_TAG: serializer.serialize(content), "by": serializer.name()}


def is_sealed(stored: Any) -> bool:
    """Whether `stored` is what `seal` makes of something. No value of a user's looks like it."""
    return isinstance(stored, dict) and set(stored) == {_TAG, "by"}


def opened(stored: Json, serializer: Serializer | None = None) -> Json:
    """The reverse of `seal`; what was not sealed is returned as it is.

    Args:
        serializer: As of `seal`.

    Raises:
        SealedError: It was sealed by a serializer that this process does not have, or with a key
            that it does not have.
    """
    if not is_sealed(stored):
        return stored
    serializer = serializer or application_serializer()
    if serializer is None or serializer.name() != stored["by"]:
        here = "none" if serializer is None else repr(serializer.name())
        raise SealedError(
            f"it was written through the serializer {stored['by']!r}, and the DBOS config of this "
            f"process has {here}. Configure the same one: DBOS(config={{..., 'serializer': ...}})"
        )
    try:
        return serializer.deserialize(stored[_TAG])
    except Exception as error:
        raise SealedError(f"the serializer {stored['by']!r} can't read it: {error}") from error
