"""A request of a durable LLM: as the call that is recorded, and what it does to the LLM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from crewai.events.types.llm_events import LLMCallCompletedEvent
from crewai.llms.base_llm import BaseLLM

from crewai_dbos._crewai_seam.llm import (
    PROVIDER_STATE,
    asked_through,
    count_usage,
    with_stable_ids,
)
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.config import StepConfig
from crewai_dbos._journal.open_calls import open_call, open_group
from crewai_dbos._journal.scope import Scope
from crewai_dbos._leases import RunVar
from crewai_dbos._people import spending
from crewai_dbos._secrets.given import Given
from crewai_dbos._setting import setting
from crewai_dbos._stored import foreign
from crewai_dbos._stored.usage import tokens_of


@dataclass(frozen=True)
class Binding:
    """How the requests of one durable LLM are recorded.

    Attributes:
        role: What they are called.
        config: Their retries.
        scope: The run it belongs to.
        by_content: Whether they come from anywhere, at any time, so that only what they ask tells
            them apart.
        given: Texts that the user has called secrets.
    """

    role: str
    config: StepConfig
    scope: Scope | None
    by_content: bool
    given: Given


def described(llm: BaseLLM) -> str:
    """The model that `llm` asks."""
    return str(getattr(llm, "model", "?"))


def as_call(
    llm: BaseLLM,
    binding: Binding,
    scope: Scope,
    collected: dict[str, Any],
    messages: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Call:
    """A request, as it is recorded.

    Args:
        llm: What makes it.
        binding: How its requests are recorded.
        scope: Where it is made.
        collected: Where is put what the request does to `llm`, when it is made.
        messages, args, kwargs: What ``call`` was given.
    """
    positional = ("tools", "callbacks", "available_functions", "from_task", "from_agent")
    given = {**dict(zip((*positional, "response_model"), args, strict=False)), **kwargs}
    model = given.get("response_model")
    request = {"model": described(llm), "messages": with_stable_ids(messages)}
    if given.get("tools"):
        request["tools"] = given["tools"]
    if model is not None:
        request["response model"] = _schema(model)
    call = Call(
        binding.role,
        kind="llm",
        request=request,
        config=binding.config,
        known=tuple(
            each
            for each in (model, getattr(llm, "response_format", None))
            if isinstance(each, type)
        ),
        as_data=foreign.as_data,
        as_text=str,
        secrets=binding.given,
        collect=lambda: collected,
        restore=restoring(llm),
        model=described(llm),
        gate=spending.gate(scope, described(llm)),
    )
    return call.by_content() if binding.by_content else call


def _schema(model: Any) -> Any:
    schema = getattr(model, "model_json_schema", None)
    return schema() if callable(schema) else repr(model)


# What it does to the LLM -------------------------------------------------------


@dataclass
class _Observed:
    """What one request did to the LLM beside returning."""

    usage: list[dict[str, Any]] = field(default_factory=list)


_observed: RunVar[_Observed | None] = RunVar("crewai_dbos_observed", default=None)


def observing() -> AbstractContextManager[Any]:
    """What a request in the block does to its LLM can be asked for with `collected_of`."""
    return setting(_observed, _Observed())


def note_usage(usage: Any) -> None:
    """The provider has told the request that is observed here what it took."""
    observed = _observed.get()
    if observed is not None:
        # Of LiteLLM it is a model, and crewAI does not look at the models in it.
        dump = getattr(usage, "model_dump", None)
        told = dump().items() if callable(dump) else None
        numbers = {name: item for name, item in told or () if type(item) in (int, float)}
        observed.usage.append(usage if told is None else numbers)


def note_unrecorded(event: Any) -> None:
    """Keep with the call that is open here what an LLM has told in it that records nothing.

    A tool may ask an ordinary LLM, or be one step as a whole.
    """
    if not isinstance(event, LLMCallCompletedEvent) or not event.usage or _observed.get():
        return
    if (call := open_call() or open_group()) is not None:
        call.used.append((str(event.model or "?"), event.usage))


def collect(llm: BaseLLM, collected: dict[str, Any]) -> None:
    """Put what the request that is observed here did to `llm` into `collected`, as it is stored.

    An attempt before this one may have been billed, too.
    """
    collect_usage(collected)
    sender = asked_through(llm)
    state = {name: getattr(sender, name, None) for name in PROVIDER_STATE}
    state = {name: value for name, value in state.items() if value is not None}
    if state:
        collected["state"] = state


def collect_usage(collected: dict[str, Any]) -> None:
    """Put what the request that is observed here took into `collected`, as it is stored."""
    observed = _observed.get()
    if observed is not None and observed.usage:
        collected["usage"] = [*collected.get("usage", ()), *observed.usage]


def restoring(llm: BaseLLM) -> Callable[[Mapping[str, Any]], int]:
    """Does to `llm` what a recorded request did to it; says how many tokens that took."""

    def restore(extra: Mapping[str, Any]) -> int:
        sender: Any = asked_through(llm)
        for usage in extra.get("usage", ()):
            count_usage(sender, usage)
        for name, value in extra.get("state", {}).items():
            setattr(sender, name, value)
        return tokens_of(extra).total

    return restore
