"""The tools of MCP servers in a run."""

from __future__ import annotations

import functools
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from crewai.tools.base_tool import BaseTool
from crewai.utilities.string_utils import sanitize_tool_name

from crewai_dbos import _patches
from crewai_dbos._journal import run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._secrets import known
from crewai_dbos._stored import names


def resolving(get_mcp_tools: Callable[..., Any]) -> Callable[..., Any]:
    """A method that asks MCP servers for their tools, which the journal hears of from then on."""

    @functools.wraps(get_mcp_tools)
    def resolve(self: Any, mcps: Any) -> Any:
        _patches.apply(_patches.MCP)
        return get_mcp_tools(self, mcps)

    return resolve


def record_discovery_if_loaded() -> None:
    """Have what is asked through the journal, if crewAI's code for it has been loaded already.

    Else that waits: its dependencies take a good part of a second, and most runs have no server.
    """
    if _RESOLVER in sys.modules:
        _patches.apply(_patches.MCP)


_RESOLVER = "crewai.mcp.tool_resolver"


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


def with_recorded_names(tools: list[BaseTool]) -> list[BaseTool]:
    """`tools` of servers, under the names that they have in this run.

    crewAI makes the names from command lines, and what is recorded names the tools: a run goes on
    with a server that a release has moved to another path or port.
    """
    if not tools:
        return tools
    # In runs that an earlier release began there are none.
    call = lambda: Call(names.MCP_NAMES, kind="mcp", background=True)  # noqa: E731
    recorded = run_scope.record(call, lambda: [[_original(t), t.name] for t in tools])
    # A name that is still given stands for the same server, in whatever order they come now.
    same = {tool.name for tool in tools} & {name for _, name in recorded}
    known_as: defaultdict[str, list[str]] = defaultdict(list)
    for original, name in recorded:
        if name not in same:
            known_as[original].append(name)
    for tool in tools:
        if tool.name not in same and (left := known_as[_original(tool)]):
            _rename(tool, left.pop(0))
    return tools


def _original(tool: BaseTool) -> str:
    """What the server calls the tool."""
    return str(getattr(tool, "original_tool_name", tool.name))


def _rename(tool: BaseTool, name: str) -> None:
    if name != tool.name:
        before, now = sanitize_tool_name(tool.name), sanitize_tool_name(name)
        tool.name, tool.description = name, tool.description.replace(before, now)
