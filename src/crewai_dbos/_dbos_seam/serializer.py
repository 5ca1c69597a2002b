"""Which serializer the application has.

DBOS writes the rows of the user's steps with it. Our entries are DBOS's own portable JSON, which
every DBOS tool can read, without this package.
"""

from __future__ import annotations

from dbos import Serializer
from dbos._serialization import DBOSDefaultSerializer, DBOSPortableJSON

from crewai_dbos._dbos_seam.instance import constructed_instance

__all__ = ["DBOSDefaultSerializer", "application_serializer"]


def application_serializer() -> Serializer | None:
    """The ``serializer`` of the DBOS config; None if it is DBOS's pickle or plain JSON."""
    instance = constructed_instance()
    if instance is None:
        return None
    found: Serializer = instance._serializer
    plain = (DBOSDefaultSerializer.name(), DBOSPortableJSON.name())
    return None if found.name() in plain else found
