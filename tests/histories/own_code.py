"""A run full of DBOS code of the user's own, replayed from records that are not whole.

`python -m histories.own_code FOLDER` writes what came of each replay to the file `outcomes` there.
A process of its own, as the handlers of this application hear the events of every other run.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dbos import DBOS, SetWorkflowID

from crash import office
from crash.names import ASK
from crash.test_own_code import script
from crewai_dbos.testing import EffectLog, ModelServer, history
from crewai_dbos.testing.effects import EFFECTS
from support.entries import EVERY, kind
from support.launching import launched

RUN = "a day at work"
OF_THE_USER = ("order", "enter", "stamp", "seal", "open_for_business.<locals>.on_tool")


def main(folder: str) -> None:
    effects = EffectLog(f"{folder}/effects")
    with ModelServer(script) as model:
        os.environ.update(model.env)
        os.environ[EFFECTS] = str(effects.path)
        url = f"sqlite:///{folder}/dbos.sqlite"
        office.open_for_business()
        with launched(url):
            with SetWorkflowID(RUN):
                office.clerk.kickoff(ASK)
            result = DBOS.retrieve_workflow(RUN).get_result()
            saved = history.save(url, RUN)
            done = [len(effects.read()), office.ledger(), len(model.requests)]
            outcomes = []
            for number, (lacks, left) in enumerate([("nothing", saved), *not_whole(saved)]):
                named = json.dumps(left).replace(f'"{RUN}', f'"replay {number}')
                run_id = history.restore(json.loads(named), url)
                try:
                    ended = "equal" if history.replayed(run_id) == result else "different"
                except Exception as error:
                    ended = type(error).__name__
                now = [len(effects.read()), office.ledger(), len(model.requests)]
                outcomes.append({"lacks": lacks, "ended": ended, "before": done, "after": now})
    Path(folder, "outcomes").write_text(json.dumps(outcomes))


def not_whole(saved: Any) -> Iterator[tuple[str, Any]]:
    """Histories that end before one row of each kind, and those that lack one of the user's own."""
    steps, seen = saved["runs"][RUN]["steps"], set()
    for at, step in enumerate(steps):
        name = step["function_name"]
        if kind(name) in seen and not EVERY:
            continue
        seen.add(kind(name))
        yield f"all from {name}", with_steps(saved, steps[:at])
        if name in OF_THE_USER:
            yield name, with_steps(saved, [*steps[:at], *steps[at + 1 :]])


def with_steps(saved: Any, steps: list[Any]) -> Any:
    children = {step["child_workflow_id"] for step in steps}
    runs = {name: run for name, run in saved["runs"].items() if name in children}
    return {**saved, "runs": {RUN: {**saved["runs"][RUN], "steps": steps}, **runs}}


if __name__ == "__main__":
    main(sys.argv[1])
