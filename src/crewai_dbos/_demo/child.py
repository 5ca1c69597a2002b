"""One process of the demo: `python -m crewai_dbos._demo.child ROLE`.

It says ``ready`` on standard output once crewAI is imported, and starts when it reads a line.
"""

from __future__ import annotations

import json
import os
import sys

RUN_ID = "three-emails"


def main(role: str) -> None:
    # crewAI prints to standard output, which is where the demo listens.
    to_parent = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    import crewai_dbos.agent  # crewAI comes with it

    to_parent.write("ready\n")
    if not sys.stdin.readline():
        return

    from crewai_dbos._demo import mailer

    if role == "durable":
        mailer.launch()
        mailer.invite_durably(RUN_ID)
    elif role == "durable-restarted":
        mailer.launch()
    else:
        result = mailer.invite(mailer.assistant)
        to_parent.write(json.dumps(result) + "\n")
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
