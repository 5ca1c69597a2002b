"""What we touch of the inside of crewAI's crews is there (read at 1.15.30)."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task, crew
from crewai.agents.cache.cache_handler import CacheHandler
from crewai.memory.unified_memory import Memory
from crewai.tasks.conditional_task import ConditionalTask
from crewai.utilities.converter import Converter
from crewai.utilities.planning_handler import CrewPlanner
from crewai.utilities.rpm_controller import RPMController
from crewai.utilities.task_output_storage_handler import TaskOutputStorageHandler

from crewai_dbos._crewai_seam import crew as seam


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_a_crew_keeps_its_state_where_we_look_for_it() -> None:
    assert set(Crew.__private_attributes__) >= {
        "_rpm_controller",
        "_task_output_handler",
        "_inputs",
        "_kickoff_event_id",
        "_execution_start_dispatched",
        "_execution_end_dispatched",
        "_cache_handler",
        "_memory",
        "_logger",
        "_file_handler",
    }
    assert set(Crew.model_fields) >= {"usage_metrics", "token_usage", "execution_logs"}


def test_a_crew_has_the_methods_that_we_override() -> None:
    assert parameters(Crew._create_manager_agent) == []
    assert parameters(Crew._prepare_tools) == ["agent", "task", "tools"]
    assert parameters(Crew._create_crew_output) == ["task_outputs"]
    assert parameters(Crew._drain_memory_writes) == []
    source = inspect.getsource(Crew._run_hierarchical_process)
    assert "_create_manager_agent()" in source


def test_the_handler_of_task_outputs_has_the_methods_of_our_stand_in() -> None:
    ours = {name for name in vars(seam.NoTaskOutputs) if not name.startswith("__")}
    used = {
        name
        for name in vars(TaskOutputStorageHandler)
        if f"_task_output_handler.{name}(" in Path(crew.__file__).read_text()
    }
    assert used <= ours


def test_a_task_keeps_its_state_where_we_look_for_it() -> None:
    assert set(Task.__private_attributes__) >= {
        "_guardrail",
        "_guardrails",
        "_guardrail_retry_counts",
        "_thread",
        "_original_description",
        "_original_expected_output",
    }
    assert "condition" in ConditionalTask.model_fields
    assert parameters(Task._save_file) == ["result"]
    assert parameters(Task.execute_sync) == ["agent", "context", "tools"]
    wanted = ["agent", "context", "tools", "future"]
    assert parameters(Task._execute_task_async) == wanted
    # What an execution leaves on a task is what we forget.
    task = Task(description="Do it", expected_output="A text")
    task.retry_count, task.used_tools = 3, 4
    task.output = None
    task.__dict__["processed_by_agents"] = {"Clerk"}
    seam.forget_task_state(task)
    assert (task.retry_count, task.used_tools, task.processed_by_agents) == (0, 0, set())


def test_an_agent_keeps_its_role_as_it_was_written() -> None:
    agent = Agent(role="{topic} Clerk", goal="Work", backstory="Diligent.", llm="gpt-4o-mini")
    agent.interpolate_inputs({"topic": "otters"})
    assert (agent.role, agent._original_role) == ("otters Clerk", "{topic} Clerk")
    assert parameters(Agent.execute_task) == ["task", "context", "tools"]
    assert parameters(Agent.set_knowledge) == ["crew_embedder"]


def test_what_asks_a_model_elsewhere_is_where_we_look_for_it() -> None:
    assert parameters(Converter._create_instructor) == []
    assert ".to_json()" in inspect.getsource(Converter.to_json)
    assert isinstance(CrewPlanner(tasks=[]).planning_agent_llm, str)
    assert "_llm_instance" in Memory.__private_attributes__
    assert parameters(CacheHandler.read) == ["tool", "input"]
    assert callable(RPMController(max_rpm=None).stop_rpm_counter)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
