"""Turning an answer into a model: crewAI asks a provider's SDK for it, past the LLM's `call`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crewai.utilities.converter import Converter

from crewai_dbos._classes import durable_class, overrides
from crewai_dbos._journal import run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._objects.llm import binding_of
from crewai_dbos._objects.llm_request import collect_usage, described, observing
from crewai_dbos._people import spending
from crewai_dbos._stored import names
from crewai_dbos._stored.usage import tokens_of

if TYPE_CHECKING:
    _Base = Converter
else:
    _Base = object


@overrides(Converter)
class _RecordedConverter(_Base):
    """Overrides of `Converter`."""

    def _create_instructor(self) -> Any:
        instructor = super()._create_instructor()
        return _RecordedInstructor(instructor, self.llm)


class _RecordedInstructor:
    def __init__(self, instructor: Any, llm: Any) -> None:
        self._instructor = instructor
        self._llm = llm

    def to_json(self) -> Any:
        scope, binding = run_scope.enclosing(), binding_of(self._llm)
        if scope is None or binding is None:
            return self._instructor.to_json()
        collected: dict[str, Any] = {}
        call = Call(
            names.CONVERSION,
            kind="llm",
            request={"text": self._instructor.content, "model": self._instructor.model.__name__},
            config=binding.config,
            secrets=binding.given,
            collect=lambda: collected,
            restore=lambda extra: tokens_of(extra).total,
            model=described(self._llm),
            gate=spending.gate(scope, described(self._llm)),
        )
        if binding.by_content:
            call = call.by_content()

        def request() -> Any:
            with observing():
                try:
                    return self._instructor.to_json()
                finally:
                    collect_usage(collected)

        return scope.run(call, request)


def recording(cls: type[Any]) -> type[Any]:
    """The converter class `cls`, whose request is an entry when its LLM is durable.

    One of the user's that is none of crewAI's asks through `call`, if it asks, and stays as it is.
    """
    if issubclass(cls, _RecordedConverter) or not issubclass(cls, Converter):
        return cls
    return durable_class(_RecordedConverter, cls)
