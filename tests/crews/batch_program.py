"""A program with a batch: ``python -m crews.batch_program database items at-once [call]``."""

from __future__ import annotations

import sys

from crewai import Crew
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSCrew
from crews.scenarios import agent, task

BATCH = "batch"


def build() -> Crew:
    clerk = agent("Clerk")
    return Crew(agents=[clerk], tasks=[task("Item {number}", clerk)])


def main(database_url: str, items: int, at_once: int, calls: bool) -> None:
    crew = DBOSCrew(crew_name="batch", orig_crew=build)
    DBOS(config={"name": "batch-program", "system_database_url": database_url})
    DBOS.launch()
    if not calls:
        # A program that only starts again: the batch is recovered by DBOS.
        DBOS.retrieve_workflow(BATCH).get_result()
        for number in range(1, items + 1):
            crew.retrieve(f"{BATCH}/{number}").get_result()
        return
    inputs = [{"number": number} for number in range(1, items + 1)]
    with SetWorkflowID(BATCH):
        outputs = crew.kickoff_for_each(inputs, concurrency=at_once)
    for number, output in enumerate(outputs, 1):
        print(f"{number}: {output.raw}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] == ["call"])
