"""Values of classes that have changed since they were stored, as a deploy changes them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pydantic.dataclasses
import pytest
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from codec.values import stored
from crewai_dbos import allow_modules
from crewai_dbos._stored import changed, modules
from crewai_dbos._stored.codec import decode
from crewai_dbos._stored.type_paths import import_path
from crewai_dbos.errors import UnstorableValueError


class Note(BaseModel):
    text: str
    count: int = 0


class Task(BaseModel):
    """`Note` of a later release."""

    text: str
    count: int = 0
    priority: int = 3
    tags: list[str] = Field(default_factory=lambda: ["new"])
    size: int = Field(default_factory=lambda data: len(data["text"]))


class Renamed(BaseModel):
    text: str
    number: int = Field(default=7, validation_alias=AliasChoices("number", "count"))


class RenamedShort(BaseModel):
    body: str = Field(alias="text")


class Stricter(BaseModel):
    text: str = Field(max_length=1)
    count: str = ""


class Demanding(BaseModel):
    text: str
    owner: str


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    text: str


@dataclass
class Job:
    name: str


@dataclass
class LaterJob:
    name: str
    priority: int = 3
    tags: list[str] = field(default_factory=lambda: ["new"])


@pydantic.dataclasses.dataclass
class ValidatedJob:
    name: str
    priority: int = 3
    tags: list[str] = Field(default_factory=lambda: ["new"])


@dataclass
class DemandingJob:
    name: str
    owner: str


@dataclass
class UnfinishedJob:
    name: str
    result: str = field(init=False)


@dataclass(slots=True)
class Slotted:
    name: str
    gone: int = 0


@dataclass(slots=True)
class LaterSlotted:
    name: str


class Place(NamedTuple):
    name: str


class LaterPlace(NamedTuple):
    name: str
    country: str = "DE"


class DemandingPlace(NamedTuple):
    name: str
    country: str


def later(value: Any, cls: type) -> Any:
    """`value` as it is read when its class has become `cls`."""
    text = stored([value])
    return decode(json.loads(text.replace(import_path(type(value)), import_path(cls))))[0]


def test_a_field_that_a_model_has_gained_has_its_default() -> None:
    found = later(Note(text="abc", count=1), Task)
    assert found == Task(text="abc", count=1)
    assert found.model_fields_set == {"text", "count"}
    assert (found.priority, found.tags, found.size) == (3, ["new"], 3)


@pytest.mark.parametrize("cls", [LaterJob, ValidatedJob])
def test_a_field_that_a_dataclass_has_gained_has_its_default(cls: Any) -> None:
    found = later(Job("a"), cls)
    assert found == cls("a")
    assert repr(found) == repr(cls("a"))


def test_a_field_that_a_named_tuple_has_gained_has_its_default() -> None:
    assert later(Place("Ulm"), LaterPlace) == LaterPlace("Ulm")


def test_a_field_that_is_gone_is_dropped() -> None:
    found = later(Note(text="a", count=1), RenamedShort)
    assert found.model_dump() == {"body": "a"}
    assert later(Slotted("a", 1), LaterSlotted) == LaterSlotted("a")


def test_a_field_that_is_gone_is_an_extra_where_the_model_takes_them() -> None:
    assert later(Note(text="a", count=1), Loose).model_dump() == {"text": "a", "count": 1}


def test_a_field_that_has_the_old_name_as_an_alias_has_its_value() -> None:
    found = later(Note(text="a", count=1), Renamed)
    assert (found.text, found.number) == ("a", 1)
    assert found.model_fields_set == {"text", "number"}
    assert later(Note(text="a"), RenamedShort).body == "a"


def test_what_is_stored_is_not_validated_again() -> None:
    found = later(Note(text="abc", count=1), Stricter)
    assert (found.text, found.count) == ("abc", 1)


@pytest.mark.parametrize(
    ("value", "cls", "lacking"),
    [
        (Note(text="a"), Demanding, "owner"),
        (Job("a"), DemandingJob, "owner"),
        (Place("Ulm"), DemandingPlace, "country"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_field_without_a_default_is_asked_for(value: Any, cls: type, lacking: str) -> None:
    with pytest.raises(UnstorableValueError, match=rf"{cls.__name__}.*{lacking}.*default"):
        later(value, cls)


def test_what_a_value_lacked_itself_is_not_asked_for() -> None:
    found = later(Note.model_construct(), Note)
    assert found.__dict__ == {"count": 0}
    unfinished = later(UnfinishedJob("a"), UnfinishedJob)
    assert vars(unfinished) == {"name": "a"}
    assert later(Job("a"), UnfinishedJob).name == "a"


def test_a_factory_of_another_package_is_called_if_it_is_allowed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(modules, "_defining", set())
    monkeypatch.setattr(modules, "_allowed", set())
    note = Note(text="abc")
    assert "tags" not in later(note, Task).__dict__
    later(note, Task)
    told = [line for line in caplog.messages if "tags" in line]
    assert len(told) == 1
    assert f"allow_modules({__name__!r})" in told[0]
    allow_modules(__name__)
    assert later(note, Task).tags == ["new"]


def test_a_field_that_a_named_tuple_has_lost_at_its_end_is_dropped() -> None:
    class Now(NamedTuple):
        x: int

    assert changed.of_tuple(Now, (1, 2)) == (1,)
