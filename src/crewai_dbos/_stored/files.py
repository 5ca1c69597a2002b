"""Files of the package crewai-files, as values that another process can rebuild."""

from __future__ import annotations

from typing import Any

from crewai_dbos.errors import UnstorableValueError

_SOURCES = "crewai_files.core.sources"


def is_source(value: Any) -> bool:
    """Whether `value` is where a file comes from: a path, bytes, a stream, an address."""
    return type(value).__module__ == _SOURCES


def without_content(source: Any) -> Any:
    """`source` as if nobody had read it yet; a stream as the bytes that are in it.

    Raises:
        UnstorableValueError: It is a stream that only async code can read, and none has.
    """
    kind = type(source).__name__
    if kind in ("FileStream", "AsyncFileStream"):
        return _read(source, is_async=kind == "AsyncFileStream")
    if kind == "FileBytes":
        return source
    # What is in the file would be stored beside its path, and only if it happens to be read.
    fresh = source.model_copy()
    fresh.__pydantic_private__ = {**(source.__pydantic_private__ or {}), "_content": None}
    return fresh


def _read(stream: Any, *, is_async: bool) -> Any:
    from crewai_files import FileBytes

    if is_async and stream._content is None:
        raise UnstorableValueError(
            "An AsyncFileStream can't be stored before it is read: `await file.aread()` first, "
            "or pass the bytes."
        )
    return FileBytes(data=stream._content if is_async else stream.read(), filename=stream.filename)
