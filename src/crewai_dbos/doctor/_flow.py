"""A flow, or the class of one, as far as it can be read without building or running it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from crewai.flow.conversational import ConversationState
from crewai.flow.flow import Flow
from crewai.flow.flow_wrappers import FlowMethod
from crewai.memory.unified_memory import Memory
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from crewai_dbos._crewai_seam import flow as flow_seam
from crewai_dbos._functions import closure_of
from crewai_dbos._journal.config import StepConfig, ToolStepConfig
from crewai_dbos._runs.definition import FlowDefinition
from crewai_dbos.doctor._code import Code, is_attribute_of, is_users
from crewai_dbos.doctor._sources import Sources, followed


@dataclass(frozen=True)
class FlowParts:
    """What a flow is made of.

    Attributes:
        cls: Its class.
        definition: crewAI's definition of it: its methods and what sets them going.
        durable: The definition of the `DBOSFlow`, if it is one.
        codes: The code of its methods that can be read, by name, each with what it calls.
        state: The state that a run begins with, or only its class.
        tools: Those of tool actions.
        memory: Its memory, if anything uses it: crewAI makes one in any case.
        input_provider: Who answers `Flow.ask`.
        persistence: Where the flow was told to keep its state when it was built.
    """

    cls: type
    definition: Any
    durable: FlowDefinition | None
    codes: Mapping[str, Sequence[Code]]
    state: Any
    tools: tuple[Any, ...] = ()
    memory: Any = None
    input_provider: Any = None
    persistence: Any = None

    @property
    def title(self) -> str:
        if self.durable is not None:
            return f"DBOSFlow {self.durable.name!r}"
        return f"Flow {self.name!r}, not durable; what a DBOSFlow around it would record"

    @property
    def name(self) -> str:
        return str(self.definition.name)

    @property
    def tool_step_config(self) -> ToolStepConfig:
        return StepConfig() if self.durable is None else self.durable.options.tool_step_config

    @property
    def asks(self) -> bool:
        """Whether a person is asked for input."""
        return self.input_provider is not None or any(
            node.attr == "ask" for node in _attributes(self.codes)
        )

    @property
    def state_class(self) -> type:
        """The class of the state: the user's where crewAI has derived one from it."""
        cls = self.state if isinstance(self.state, type) else type(self.state)
        return next((base for base in cls.__mro__[:-1] if is_users(base)), cls)

    def state_fields(self) -> Mapping[str, Any]:
        """What is known of the values that the state begins with, by field."""
        if isinstance(self.state, dict):
            return self.state
        if isinstance(self.state, BaseModel):
            return self.state.__dict__
        if isinstance(self.state, type) and issubclass(self.state, BaseModel):
            defaults = {name: field.default for name, field in self.state.model_fields.items()}
            return {n: value for n, value in defaults.items() if value is not PydanticUndefined}
        return {}

    def inherited(self) -> Iterator[tuple[type, list[str]]]:
        """Base classes with methods of a flow that crewAI does not run here."""
        for base in self.cls.__mro__[1:]:
            names = [
                name
                for name, value in vars(base).items()
                if isinstance(value, FlowMethod)
                and name not in self.definition.methods
                and inspect.getattr_static(self.cls, name) is value
            ]
            if names and is_users(base):
                yield base, names


def is_flow(what: Any) -> bool:
    """Whether `what` is a flow, or the class of one that is not crewAI's own."""
    return isinstance(what, Flow) or (
        isinstance(what, type) and issubclass(what, Flow) and is_users(what)
    )


def read(flow: Any) -> FlowParts:
    """The parts of `flow`, an object or a class for which `is_flow` holds."""
    return _of_class(flow) if isinstance(flow, type) else _of_object(flow)


def _of_class(cls: Any) -> FlowParts:
    definition = cls.flow_definition()
    methods = {name: inspect.getattr_static(cls, name, None) for name in definition.methods}
    state = _default(cls, "initial_state") or flow_seam.type_of_state(cls)
    if not isinstance(state, (type, dict, BaseModel)):
        state = dict if definition.conversational is None else ConversationState
    codes = _codes(cls, methods)
    memory = _default(cls, "memory")
    if memory is None and _remembers(definition, codes):
        memory = _memory_of_its_own()
    return FlowParts(
        cls=cls,
        definition=definition,
        durable=None,
        codes=codes,
        state=state,
        memory=memory,
        input_provider=_default(cls, "input_provider"),
        persistence=_default(cls, "persistence"),
    )


def _memory_of_its_own() -> Any:
    """As crewAI makes one for a flow, but without the folder of its store."""
    memory = Memory.model_construct(storage=None)
    memory.storage = Memory.model_fields["storage"].default
    return memory


def _of_object(flow: Any) -> FlowParts:
    durable = getattr(flow, "_durable", None)
    methods = dict(flow_seam.methods_of(flow))
    built = next(filter(None, map(_owner, methods.values())), flow)
    cls = type(built)
    codes = _codes(cls, methods)
    definition = flow_seam.definition_of(flow)
    uses_memory = _default(cls, "memory") is not None or _remembers(definition, codes)
    return FlowParts(
        cls=cls,
        definition=definition,
        durable=durable if isinstance(durable, FlowDefinition) else None,
        codes=codes,
        state=flow_seam.state_of(flow),
        tools=flow_seam.tools_of_actions(flow),
        memory=flow.memory if uses_memory else None,
        input_provider=flow.input_provider,
        persistence=flow.persistence if flow_seam.saves_by_itself(flow) else None,
    )


def _default(cls: Any, name: str) -> Any:
    value = cls.model_fields[name].get_default(call_default_factory=True)
    return None if value is PydanticUndefined else value


def _codes(cls: type, methods: Mapping[str, Any]) -> dict[str, Sequence[Code]]:
    sources = Sources()
    found: dict[str, Sequence[Code]] = {}
    for name, method in methods.items():
        action = _action(method)
        function = _function(getattr(action, "handler", None) if action else method)
        if (code := sources.code_of(function)) is not None:
            found[name] = followed(code, sources.code_of, cls)
    return found


def _remembers(definition: Any, codes: Mapping[str, Sequence[Code]]) -> bool:
    """Whether something uses the flow's memory."""
    asked = (method.human_feedback for method in definition.methods.values())
    return any(feedback is not None and feedback.learn for feedback in asked) or any(
        node.attr in ("memory", "recall", "remember", "extract_memories")
        for node in _attributes(codes)
    )


def _attributes(codes: Mapping[str, Sequence[Code]]) -> Iterator[ast.Attribute]:
    """Where code refers to attributes of its flow."""
    for code in (code for found in codes.values() for code in found):
        for node in code.nodes:
            if is_attribute_of(node, code.first_argument):
                yield node


def _function(method: Any) -> FunctionType | None:
    """The function that the user wrote, as it was before crewAI's decorators."""
    method = getattr(method, "__func__", method)
    while isinstance(method, FlowMethod):
        method = method.unwrap()
    return method if isinstance(method, FunctionType) else None


def _action(method: Any) -> Any:
    """The action of a declared flow that `method` carries out, if it does."""
    return closure_of(method).get("action")


def _owner(method: Any) -> Any:
    """The flow that `method` is bound to."""
    return getattr(method, "__self__", None) or getattr(_action(method), "flow", None)
