"""Crews and tasks of plain crewAI with a durable agent in them."""

from __future__ import annotations

from crewai import Agent, Crew, Task

from agent.helpers import clerk, echo, job, model
from crewai_dbos import DBOSAgent
from crewai_dbos.testing import ModelServer, text
from support.names import unique


def test_a_crew_fills_its_inputs_into_a_durable_agent() -> None:
    with ModelServer(lambda request: text(request.system_text)) as server:
        orig = Agent(
            role="{topic} expert", goal="Know {topic}", backstory="Old.", llm=model(server)
        )
        agent = DBOSAgent(agent_name=unique("templated"), orig_agent=orig)
        task = Task(description="About {topic}", expected_output="A text.", agent=agent)
        crew = Crew(agents=[agent], tasks=[task])
        assert "tea expert" in crew.kickoff(inputs={"topic": "tea"}).raw
        outputs = crew.kickoff_for_each(inputs=[{"topic": "ink"}, {"topic": "wax"}])
        assert ["ink expert" in outputs[0].raw, "wax expert" in outputs[1].raw] == [True, True]


def test_a_crew_of_plain_crewai_runs_a_durable_agent() -> None:
    with ModelServer(echo) as server:
        agent = DBOSAgent(agent_name=unique("member"), orig_agent=clerk(server))
        output = Crew(agents=[agent], tasks=[job(agent=agent)]).kickoff()
        assert output.raw == "You said: Current Task: Do it."
        assert output.token_usage.successful_requests == 1
        assert output.tasks_output[0].messages
