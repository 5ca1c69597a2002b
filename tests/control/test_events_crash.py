"""A stream that is read over a kill -9: nothing is missing, and nothing is there twice."""

from __future__ import annotations

from typing import Any

import pytest

from crewai_dbos.control import Answer, Approve
from crewai_dbos.control import Request as Asked
from crewai_dbos.testing import Reply, Request, ToolCall, text, tool_calls
from support.crashing import survives

pytestmark = pytest.mark.crash


def script(request: Request) -> Reply:
    if not request.tool_results:
        return tool_calls(ToolCall("look_up", {"what": request.last_user_text[:30]}))
    return text(f"{request.tool_results[0][1]}. " * 20)


def approving(_: Asked) -> Answer:
    return Approve()


@pytest.mark.parametrize("target", ["crew", "letters", "approved"])
def test_whenever_it_is_killed(target: str, database_kind: str) -> None:
    options: dict[str, Any] = {"people": approving} if target == "approved" else {}
    survives(
        f"support.told:{target}",
        {},
        model=script,
        left_behind="support.told:told",
        database=database_kind,
        **options,
    )
