"""The source as the reference shows it, read by griffe for mkdocstrings."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^Example::\n\n((?:    .*\n?|\n)+)", re.MULTILINE)


class AsUsed(griffe.Extension):
    """An ``Example::`` is a block of Python, and a class is called with what `__new__` takes.

    What users call has an example, which a test runs. Other methods are there for crewAI or DBOS.
    """

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is None:
            return
        if obj.is_function and _is_in_class(obj) and not _EXAMPLE.search(obj.docstring.value):
            obj.docstring = None
        else:
            obj.docstring.value = _EXAMPLE.sub(_as_block, obj.docstring.value)

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        made, begun = (cls.members.get(name) for name in ("__new__", "__init__"))
        if isinstance(made, griffe.Function) and isinstance(begun, griffe.Function):
            begun.parameters = made.parameters


def _is_in_class(obj: griffe.Object) -> bool:
    return obj.parent is not None and obj.parent.is_class


def _as_block(match: re.Match[str]) -> str:
    code = textwrap.dedent(match[1]).strip("\n")
    return f"**Example**\n\n```python\n{code}\n```\n\n"
