"""The two crews, as `crewai create crew` lays them out."""

from __future__ import annotations

from crewai import LLM, Agent, Crew, Task
from crewai.agents.agent_builder.base_agent import BaseAgent
from crewai.project import CrewBase, agent, crew, task
from pydantic import BaseModel

from crewai_dbos import DBOSCrew

llm = LLM(model="openai/gpt-4o-mini")


class Score(BaseModel):
    score: int
    reason: str


@CrewBase
class Scoring:
    agents: list[BaseAgent]
    tasks: list[Task]
    agents_config = "config/agents.yaml"
    tasks_config = "config/score.yaml"

    @agent
    def analyst(self) -> Agent:
        return Agent(config=self.agents_config["analyst"], llm=llm)

    @task
    def score(self) -> Task:
        return Task(config=self.tasks_config["score"], output_pydantic=Score)

    @crew
    def crew(self) -> Crew:
        return Crew(agents=self.agents, tasks=self.tasks)


@CrewBase
class Writing:
    agents: list[BaseAgent]
    tasks: list[Task]
    agents_config = "config/agents.yaml"
    tasks_config = "config/letter.yaml"

    @agent
    def writer(self) -> Agent:
        return Agent(config=self.agents_config["writer"], llm=llm)

    @task
    def write(self) -> Task:
        return Task(config=self.tasks_config["write"])

    @crew
    def crew(self) -> Crew:
        return Crew(agents=self.agents, tasks=self.tasks)


scoring = DBOSCrew(crew_name="scoring", orig_crew=Scoring)
writing = DBOSCrew(crew_name="writing", orig_crew=Writing)
