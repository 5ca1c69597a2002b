"""One process of the demo: `python -m crewai_dbos._demo.child ROLE`.

It says ``ready`` on standard output when crewAI is imported, and starts when it reads a line.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys

RUN_ID = "three-emails"

# The second would otherwise be imported with the first request.
_SLOW_IMPORTS = ("crewai_dbos.agent", "openai.resources")


def main(role: str) -> None:
    # crewAI prints to standard output, which is where the demo listens.
    to_parent = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    gc.disable()  # a fifth of the time
    for name in _SLOW_IMPORTS:
        importlib.import_module(name)
    gc.freeze()
    gc.enable()
    to_parent.write("ready\n")
    if not sys.stdin.readline():
        return

    from crewai_dbos._demo import mailer

    if role == "durable":
        mailer.launch()
        mailer.invite_durably(RUN_ID)
    elif role == "durable-restarted":
        mailer.launch()
        sys.stdin.read()  # a service would go on serving
    else:
        to_parent.write(json.dumps(mailer.invite(mailer.assistant)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
