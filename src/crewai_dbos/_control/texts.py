"""Errors that are stored, as one line for people. Nothing in them is built again."""

from __future__ import annotations

import base64
import json
import pickletools
from collections.abc import Mapping
from typing import Any

from crewai_dbos._dbos_seam.stored_contents import StoredError
from crewai_dbos._stored.errors import is_error
from crewai_dbos._stored.sealing import Open
from crewai_dbos.errors import SealedError

SEALED = "it is encrypted: give Control the application's serializer"
_TAG = "crewai_dbos"


def of_run(stored: StoredError, opened: Open) -> str:
    """Class and message of the error that a run has ended with."""
    if not stored.is_json:
        return _of_pickle(stored.text) or f"(written by {stored.serializer}, not read here)"
    try:
        error = json.loads(stored.text)
    except (ValueError, RecursionError):
        return "(not readable)"
    if not isinstance(error, Mapping):
        return "(not readable)"
    data = error.get("data")
    if isinstance(data, Mapping) and set(data) == {_TAG, "error"}:
        try:
            if (found := of_json(opened(data["error"]))) is not None:
                return found
        except SealedError:
            return f"{error.get('name')}: {SEALED}"
    return _line(str(error.get("name")), str(error.get("message", "")))


def of_json(error: Any) -> str | None:
    """Class and message of an error as an entry has it; None if it is none."""
    if not is_error(error):
        return None
    return _line(error["type"].rpartition(":")[2].rpartition(".")[2], error["message"])


def _line(cls: str, message: str) -> str:
    return f"{cls}: {message}" if message else cls


def _of_pickle(text: str) -> str | None:
    """What a pickled error says of itself, without unpickling it, which would run it."""
    try:
        codes = list(pickletools.genops(base64.b64decode(text, validate=True)))
    except Exception:  # anything may be wrong with it
        return None
    said = [(code.name, argument) for code, argument, _ in codes if code.name not in _UNSAID]
    names = [name for name, _ in said]
    if "STACK_GLOBAL" not in names or (found := names.index("STACK_GLOBAL")) < 2:
        return None
    if not all(_TEXT in name for name in names[found - 2 : found]):
        return None
    cls, after = str(said[found - 1][1]), said[found + 1 : found + 4]
    takes_a_text = [name for name, _ in after][1:] == ["TUPLE1", "REDUCE"] and _TEXT in after[0][0]
    return _line(cls, str(after[0][1]) if takes_a_text else "")


_TEXT = "BINUNICODE"
_UNSAID = ("PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT")
