"""As `mcp_server.py`, without the SDK, which takes a second to import.

It is started for each of hundreds of replays, as ``python -I -S quick_mcp_server.py FOLDER``, where
the folder is the one of `crewai_dbos.testing.effects`: importing the package takes a second, too.
"""

import json
import sys
from typing import Any

sys.path.append(sys.argv[1])
from effects import report_effect  # type: ignore[import-not-found]

PRICE = {
    "name": "price",
    "description": "What an item costs.",
    "inputSchema": {
        "type": "object",
        "properties": {"item": {"type": "string", "title": "Item"}},
        "required": ["item"],
        "title": "priceArguments",
    },
}


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    if method == "initialize":
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "shop", "version": "1"},
        }
    if method == "tools/list":
        return {"tools": [PRICE]}
    assert method == "tools/call", method
    item = params["arguments"]["item"]
    report_effect("price", item=item)
    return {"content": [{"type": "text", "text": f"{item} cost 7"}]}


for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:  # others are no requests
        result = answer(message["method"], message.get("params") or {})
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
