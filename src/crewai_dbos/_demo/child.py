"""One process of the demo: `python -m crewai_dbos._demo.child ROLE`.

It says ``ready`` on standard output when crewAI is imported, and starts when it reads a line.
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

    import crewai_dbos.agent as _  # the slow part: crewAI comes with it

    to_parent.write("ready\n")
    if not sys.stdin.readline():
        return

    from crewai_dbos._demo import mailer

    match role:
        case "durable":
            mailer.launch()
            mailer.invite_durably(RUN_ID)
        case "durable-restarted":
            mailer.launch()
            sys.stdin.read()  # a service goes on serving; this one waits to be ended
        case "plain" | "plain-restarted":
            answer = mailer.invite(mailer.assistant)
            to_parent.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
