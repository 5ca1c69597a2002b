"""What overrides something of crewAI's that is no longer there is refused, not left unused."""

from __future__ import annotations

import pytest
from crewai.agents.agent_builder.utilities.base_output_converter import OutputConverter
from crewai.utilities.converter import Converter
from pydantic import BaseModel

from crewai_dbos import DefinitionError
from crewai_dbos._classes import durable_class, overridden, overrides
from crewai_dbos._objects.conversion import recording
from crewai_dbos._versions import TESTED, installed
from support.new import said_by


class Answer(BaseModel):
    text: str


class Worker:
    def work(self) -> str:
        return "worked"

    @property
    def name(self) -> str:
        return "worker"


class Recorded:
    def work(self) -> str:
        return f"recorded: {super().work()}"  # type: ignore[misc]

    @property
    def name(self) -> str:
        return f"recorded: {super().name}"  # type: ignore[misc]


class Outdated(Recorded):
    def _rest(self) -> None:
        """Which a worker did once."""


def test_overrides_of_what_there_is_are_taken() -> None:
    made = durable_class(Recorded, Worker)()
    assert isinstance(made, Worker)
    assert (made.work(), made.name) == ("recorded: worked", "recorded: worker")


@pytest.mark.parametrize("make", [overridden, durable_class, lambda m, c: overrides(c)(m)])
def test_an_override_of_nothing_is_refused_and_the_releases_are_named(make: object) -> None:
    assert callable(make)
    with pytest.raises(DefinitionError) as refused:
        make(Outdated, Worker)
    told = str(refused.value)
    assert "Worker has no '_rest'" in told
    assert f"crewai {installed('crewai')} is installed" in told
    assert f"install crewai=={TESTED['crewai']}" in told


def test_an_inherited_override_is_looked_at_too() -> None:
    class Idle:
        @property
        def name(self) -> str:
            return "idle"

        def _rest(self) -> None: ...

    with pytest.raises(DefinitionError, match="Idle has no 'work'"):
        overridden(Outdated, Idle)


class Plain(OutputConverter):
    """A converter of the user's own, that asks nobody as crewAI's does."""

    def to_pydantic(self, current_attempt: int = 1) -> Answer:
        return Answer(text=self.text)

    def to_json(self, current_attempt: int = 1) -> dict[str, str]:
        return {"text": self.text}


def test_a_converter_of_the_users_that_has_nothing_to_override_is_left_as_it_is() -> None:
    assert recording(Plain) is Plain
    assert recording(Converter) is recording(recording(Converter)) is not Converter


CASES = [
    ("RuntimeFlow", "_persist_method_completion", "crewai_dbos.flow"),
    ("Crew", "_create_crew_output", "crewai_dbos.crew"),
    ("AgentExecutor", "_ensure_step_executor", "crewai_dbos.agent"),
]
MOVED = """
from crewai import Crew, Task
from crewai.agents.agent_executor import AgentExecutor
from crewai.flow.flow import Flow
from crewai.flow.runtime import Flow as RuntimeFlow

of, name, module = {case!r}
moved = globals()[of]
setattr(moved, name + "_renamed", vars(moved)[name])
delattr(moved, name)
from crewai_dbos import DefinitionError
try:
    __import__(module)
except DefinitionError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], str]:
    """What a program says at its start, for each case."""
    programs = [MOVED.format(case=case) for case in CASES]
    said = said_by(programs, tmp_path_factory.mktemp("moved"))
    return {case: "".join(each) for case, each in zip(CASES, said, strict=True)}


@pytest.mark.crash
@pytest.mark.parametrize("case", CASES)
def test_a_program_does_not_start_with_a_crewai_that_has_moved_a_method(
    case: tuple[str, str, str], told: dict[tuple[str, str, str], str]
) -> None:
    """Its unfinished runs stay as they are; they would fail, or go on without a record."""
    assert f"has no {case[1]!r}" in told[case]
    assert f"crewai=={TESTED['crewai']}" in told[case]
