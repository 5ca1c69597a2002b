"""MCP servers in a run: which tools a server offers is asked once and recorded."""

from __future__ import annotations

from collections import Counter
from typing import Any

from crewai.mcp.client import MCPClient
from crewai.tools.base_tool import BaseTool

from crewai_dbos._classes import overrides
from crewai_dbos._journal import run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._secrets import known
from crewai_dbos._stored import names


def recording_discovery(_: type[MCPClient]) -> type[MCPClient]:
    """The client with which crewAI discovers MCP tools through the journal."""
    return RecordedDiscovery


def without_secrets(tools: list[BaseTool]) -> list[BaseTool]:
    """`tools` of servers, whose names crewAI makes from command lines, less the keys in these."""
    taken = Counter(tool.name for tool in tools)
    for tool in tools:
        name = known.hide(tool.name)
        if name != tool.name:
            taken[name] += 1
            # One command with two keys is two servers.
            tool.name = name if taken[name] == 1 else f"{name}_{taken[name]}"
    return tools


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
