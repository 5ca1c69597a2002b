"""A journal as a naive integration keeps it: entries named by the order in which calls arrive.

A program that imports this runs on it. The crash matrix must find that out.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

from crash.application import native_postman as native_postman
from crewai_dbos._objects import tools


def _by_arrival(tool_name: str, arguments: Any) -> str:
    return "tool:call"


mock.patch.object(tools, "names", SimpleNamespace(tool=_by_arrival)).start()
