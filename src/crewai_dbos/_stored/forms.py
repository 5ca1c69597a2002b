"""Which classes a form may name, and how large a value may be: the same for writing and reading.

What is written is checked too, so that nothing is recorded that a later process refuses to read.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from pydantic import AnyUrl

from crewai_dbos._stored import modules
from crewai_dbos._stored.type_paths import import_path
from crewai_dbos.errors import UnstorableValueError

Json = Any

DEEPEST = 200
"""Containers in containers. Python itself gives up somewhere past 300."""

MOST = 10_000_000
"""Items of one value, in all its containers."""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A value that has been encoded already; it is decoded with what it is part of."""

    data: Json


_LIVE = (
    "crewai.llms.base_llm:BaseLLM",
    "crewai.agents.agent_builder.base_agent:BaseAgent",
    "crewai.agents.agent_builder.base_agent_executor:BaseAgentExecutor",
    "crewai.task:Task",
    "crewai.crew:Crew",
    "crewai.flow.runtime:Flow",
    "crewai.tools.base_tool:BaseTool",
    "crewai.tools.structured_tool:CrewStructuredTool",
    "crewai.memory.unified_memory:Memory",
    "crewai.knowledge.knowledge:Knowledge",
    "crewai.knowledge.source.base_knowledge_source:BaseKnowledgeSource",
    "crewai.knowledge.storage.base_knowledge_storage:BaseKnowledgeStorage",
    "crewai.flow.persistence.base:FlowPersistence",
    "crewai.a2a.config:A2AConfig",
    "crewai.a2a.config:A2AClientConfig",
    "crewai.a2a.config:A2AServerConfig",
    "crewai.mcp.config:MCPServerStdio",
    "crewai.mcp.config:MCPServerHTTP",
    "crewai.mcp.config:MCPServerSSE",
)
_FACTORIES = (bool, bytearray, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)


def check_data(cls: type) -> None:
    """Refuse a class of a model, a dataclass or a container that does more than hold data.

    Raises:
        UnstorableValueError: It holds clients and keys, starts a program, or acts when it goes.
    """
    if any(import_path(base) in _LIVE for base in cls.__mro__):
        raise UnstorableValueError(
            f"{import_path(cls)} is not data: build it anew where it is needed, or keep what it "
            "returned."
        )
    if has(cls, "__del__"):
        raise UnstorableValueError(
            f"{import_path(cls)} does something when it is thrown away (__del__), so it is not "
            "made from a record. Keep plain data, or what it returned."
        )


def check_made_of_fields(cls: type) -> None:
    """Refuse a dataclass that is something else as well, which its fields alone do not make.

    Raises:
        UnstorableValueError: It is an error, a dict, a list, a text, ...
    """
    try:
        object.__new__(cls)
    except TypeError as error:
        raise UnstorableValueError(
            f"{import_path(cls)} is a dataclass and is derived from a built-in class ({error}), so "
            "it can't be made again from its fields. Keep what it is derived from in a field."
        ) from None


def own_attributes(value: Any) -> dict[str, Any]:
    """What an object has in its ``__dict__``, without what ``Box[int]`` notes there.

    Raises:
        UnstorableValueError: It has one that looks like Python's own, which is not read again.
    """
    return without_python_s_own(type(value), getattr(value, "__dict__", {}))


def without_python_s_own(cls: type, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The same for the attributes of an object of `cls`, whoever names them."""
    found = {name: item for name, item in attributes.items() if name != _MADE_AS}
    for name in found:
        if name.startswith("__"):
            raise UnstorableValueError(
                f"A {cls.__qualname__} has an attribute {name!r}. Names that begin with two "
                "underscores are Python's own: call it otherwise."
            )
    return found


_MADE_AS = "__orig_class__"


def check_factory(cls: type) -> None:
    """Refuse a class that a `defaultdict` is not to make.

    Raises:
        UnstorableValueError: It is neither built in nor of the code that the definitions belong to.
    """
    if cls not in _FACTORIES and not modules.is_of_a_definition(cls):
        raise UnstorableValueError(
            f"a defaultdict that makes {import_path(cls)} is not made from a record"
        )


def is_dataclass(cls: type) -> bool:
    """Whether `cls` is a dataclass, found out without asking its metaclass."""
    return has(cls, "__dataclass_fields__")


def has(cls: type, name: str) -> bool:
    """Whether `cls` or a base of it, `object` aside, defines `name`; nothing of it is asked."""
    return any(name in vars(base) for base in cls.__mro__[:-1])


def check_url(cls: type) -> None:
    """Refuse a class of URLs that is made in a way of its own.

    Raises:
        UnstorableValueError: It is.
    """
    own = cls.__mro__[: cls.__mro__.index(AnyUrl)] if issubclass(cls, AnyUrl) else ()
    if any(name in vars(base) for base in own for name in ("__init__", "__new__")):
        raise UnstorableValueError(
            f"{import_path(cls)} is made in a way of its own. Keep the URL as a text."
        )


def is_storable(text: str) -> bool:
    """Whether a column of a database can have `text`: no NUL, nor half of a surrogate pair."""
    return re.search("[\0\ud800-\udfff]", text) is None


def is_text(value: str) -> bool:
    """Whether `value` has a form in UTF-8, which a lone surrogate has not."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
