"""Which serializer DBOS writes a row with.

DBOS writes a step's output with the serializer of the whole application, pickle by default, and
has no option for one step. Our entries are JSON already: while one of them is written, the
application's serializer says it is DBOS's own portable JSON, and DBOS writes and labels the row so.
Every DBOS tool can read such a row, without this package.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

from dbos import Serializer
from dbos._serialization import DBOSDefaultSerializer, DBOSPortableJSON

from crewai_dbos import _patches
from crewai_dbos._dbos_seam.instance import constructed_instance
from crewai_dbos._setting import setting

__all__ = [
    "DBOSDefaultSerializer",
    "application_serializer",
    "entry_format",
    "portable_row",
    "user_code",
    "write_portable_rows",
]

_writing_entry: ContextVar[bool] = ContextVar("crewai_dbos_writing_entry", default=False)


class _EntryFormat(Serializer):
    def __init__(self, application: Serializer) -> None:
        self.application = application

    def serialize(self, data: Any) -> str:
        return self.application.serialize(data)

    def deserialize(self, serialized_data: str) -> Any:
        return self.application.deserialize(serialized_data)

    def name(self) -> str:
        return DBOSPortableJSON.name() if _writing_entry.get() else self.application.name()


def application_serializer() -> Serializer | None:
    """The ``serializer`` of the DBOS config; None if it is DBOS's pickle or plain JSON."""
    instance = constructed_instance()
    if instance is None:
        return None
    found = instance._serializer
    if isinstance(found, _EntryFormat):
        found = found.application
    plain = (DBOSDefaultSerializer.name(), DBOSPortableJSON.name())
    return None if found.name() in plain else found


def write_portable_rows() -> None:
    """Prepare the launched DBOS instance for `portable_row`. Any number of times."""
    _patches.apply(_patches.JOURNAL)


def entry_format(serializer: Serializer) -> Serializer:
    """The serializer of the application, which says "portable JSON" where an entry is written."""
    return _EntryFormat(serializer)


def portable_row() -> AbstractContextManager[Any]:
    """The step run in this block is stored as portable JSON."""
    return setting(_writing_entry, True)


def user_code() -> AbstractContextManager[Any]:
    """What is stored inside a step's body is the user's, in the application's format."""
    return setting(_writing_entry, False)
