"""Which tools an MCP server offers is asked once in a run, and recorded.

crewAI loads what speaks MCP when an agent has a server, and so is this module.
"""

from __future__ import annotations

from typing import Any

from crewai.mcp.client import MCPClient

from crewai_dbos._classes import overrides
from crewai_dbos._journal import run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._stored import names


def recording_discovery(_: type[MCPClient]) -> type[MCPClient]:
    """The client with which crewAI discovers MCP tools through the journal."""
    return RecordedDiscovery


@overrides(MCPClient)
class RecordedDiscovery(MCPClient):
    """An `MCPClient` that does not connect for a list of tools that is recorded."""

    async def connect(self) -> Any:
        scope = run_scope.enclosing()
        if scope is not None and scope.is_recorded(names.MCP_DISCOVERY):
            return self
        return await super().connect()

    async def list_tools(self, use_cache: bool | None = None) -> list[dict[str, Any]]:
        listed = super().list_tools
        call = lambda: Call(names.MCP_DISCOVERY, kind="mcp")  # noqa: E731
        return await run_scope.arecord(call, lambda: listed(use_cache))
