"""An MCP server on stdio with one tool, which tells of every call and of every start."""

from mcp.server.fastmcp import FastMCP

from crewai_dbos.testing import report_effect

server = FastMCP("shop")


@server.tool()
def price(item: str) -> str:
    """What an item costs."""
    report_effect("price", item=item)
    return f"{item} cost 7"


server.run()
