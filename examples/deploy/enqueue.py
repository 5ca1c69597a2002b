"""Put runs on the queue that the workers share, one for each topic.

python enqueue.py otters seals
"""

import os
import sys

from app import research
from dbos import DBOS, SetWorkflowID

from crewai_dbos import Worker

QUEUE = "research"


def main(topics: list[str]) -> None:
    url = os.environ["DBOS_SYSTEM_DATABASE_URL"]
    # The name and the version (DBOS__APPVERSION) of the workers: they take runs of no others.
    DBOS(config={"name": "app", "system_database_url": url, "log_level": "WARNING"})
    DBOS.listen_queues([])  # it takes nothing from the queue
    # As a worker, so that a run which it is handed all the same is given back when it ends.
    with Worker(grace=0):
        DBOS.register_queue(QUEUE, worker_concurrency=4)
        for topic in topics:
            with SetWorkflowID(f"research-{topic}"):  # a topic that was asked for is not done again
                research.start({"topic": topic}, queue=QUEUE)
            print(f"research-{topic}")


if __name__ == "__main__":
    main(sys.argv[1:])
