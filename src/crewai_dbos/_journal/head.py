"""What is known of an entry before its content is read: what stands in the clear at its beginning.

A run may have thousands of entries, and is asked for one after the other. So it is opened with the
beginnings of their texts, which say what they are, and each is read when it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from crewai_dbos._journal.payload import is_payload
from crewai_dbos._stored import names

LENGTH = 400
"""Characters of a text that its head is looked for in."""


@dataclass(frozen=True)
class Head:
    """What of a payload is known before its content.

    Attributes:
        version: Of its form.
        kind: ``llm``, ``tool``, ...
        concurrent: As of the `Call`.
        background: As of the `Call`.
        ids: How many step ids it keeps free.
        key_id: The id of the key of digests in names; see `Record.key_id`.
    """

    version: int
    kind: str
    concurrent: bool = False
    background: bool = False
    ids: int = 0
    key_id: str | None = None


def head_of(stored: Any) -> Head | None:
    """The head of an entry that has been read; None if it is none that can be read."""
    if not is_payload(stored):
        return None
    payload: Mapping[str, Any] = stored
    key_id = payload.get("key")
    return _head(
        payload["v"],
        payload["kind"],
        bool(payload.get("concurrent")),
        bool(payload.get("background")),
        payload.get("ids", 0),
        key_id if isinstance(key_id, str) else None,
    )


def head_in(text: str) -> Head | None:
    """The head of the entry whose text begins with `text`.

    Returns:
        None if it can't be told without reading all of it: of a pin, of what we have not written.
    """
    found = _HEAD.match(text)
    if found is None or found["kind"] == PIN or int(found["v"]) not in names.ENTRY_VERSIONS:
        return None
    concurrent, background = found["concurrent"] is not None, found["background"] is not None
    return _head(int(found["v"]), found["kind"], concurrent, background, 0, found["key"])


PIN = "pin"
"""The kind of the entries that keep step ids free, and say at their end how many."""

# As `payload` writes what is in the clear, in the JSON of DBOS, up to what is not.
_STRING = r'"(?:[^"\\]|\\.)*"'
_HEAD = re.compile(
    r'\{"v":(?P<v>\d{1,3}),"kind":"(?P<kind>[^"\\]*)"'
    rf'(?:,"model":{_STRING})?'
    r'(?P<concurrent>,"concurrent":true)?(?P<background>,"background":true)?'
    r'(?:,"seconds":[-+.\de]+)?'
    rf'(?:,"models":\[(?:{_STRING},?)*\])?'
    r'(?:,"attempts":\d+)?'
    r'(?:,"key":"(?P<key>[^"\\]*)")?'
    r',"(?:request|salt|extra|result|error|failed|sealed)":'
)


@lru_cache(maxsize=256)
def _head(
    version: int, kind: str, concurrent: bool, background: bool, ids: int, key_id: str | None
) -> Head:
    """One object for all entries that have this in common."""
    return Head(version, kind, concurrent, background, ids, key_id)
