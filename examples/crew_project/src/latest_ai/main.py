#!/usr/bin/env python
import warnings
from datetime import datetime

from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSCrew
from latest_ai.crew import LatestAi

warnings.filterwarnings("ignore", category=SyntaxWarning, module="pysbd")

crew = DBOSCrew(crew_name="latest_ai", orig_crew=LatestAi)


def run():
    """
    Run the crew.
    """
    inputs = {
        "topic": "AI LLMs",
        "current_year": str(datetime.now().year),
    }

    version = "latest_ai-1"  # without it DBOS makes one, and an update may leave runs behind
    DBOS(config={"name": "latest_ai", "application_version": version, "log_level": "WARNING"})
    DBOS.launch()
    try:
        with SetWorkflowID("{topic} {current_year}".format(**inputs)):
            crew.kickoff(inputs=inputs)
    except Exception as e:
        raise Exception(f"An error occurred while running the crew: {e}") from e
