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
