"""The parts of a flow that do something in a run, and what records each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from crewai_dbos._stored import names
from crewai_dbos.doctor import _items
from crewai_dbos.doctor._flow import FlowParts
from crewai_dbos.doctor._items import NOT_ASKED
from crewai_dbos.doctor._report import Item

FLOW = "flow"

RESTORED = "restored; one cut short runs again"


def of_flow(flow: FlowParts) -> Iterator[Item]:
    """The items of `flow`, as a `DBOSFlow` records them."""
    for name, method in flow.definition.methods.items():
        seam = names.method(name)
        yield Item("method", f"{name} ({_role(method)})", FLOW, seam, RESTORED)
    seam = f"{names.STATE}, {names.method('...')}"
    recovery = "as the methods that had ended left it"
    yield Item("state", flow.state_class.__qualname__, FLOW, seam, recovery)
    for tool in {tool.name: tool for tool in flow.tools}.values():
        yield _items.tool_item(tool, flow.tool_step_config, FLOW)
    if flow.memory is not None:
        yield from _items.memory_items(flow.memory, FLOW)
    if flow.asks:
        yield Item("person", _by("ask", flow.input_provider), FLOW, names.ASK, NOT_ASKED)
    conversation = flow.definition.conversational
    for field in ("llm", "intent_llm", "answer_from_history_llm"):
        if (llm := getattr(conversation, field, None)) is not None:
            yield _items.llm_item(_model(llm), names.LLM, FLOW, field)
    if (router := getattr(conversation, "router", None)) is not None and router.llm is not None:
        yield _items.llm_item(_model(router.llm), names.LLM, FLOW, "router")
    if (persist := flow.definition.persist) is not None and persist.enabled:
        yield _persisted(flow, persist, FLOW)
    for name, method in flow.definition.methods.items():
        owner = f"method {name!r}"
        if method.human_feedback is not None:
            yield from _feedback(method.human_feedback, owner)
        if method.persist is not None and method.persist.enabled:
            yield _persisted(flow, method.persist, owner)


def _role(method: Any) -> str:
    """What sets a method going."""
    parts = []
    if method.start:
        parts.append("start" if method.start is True else f"start at {_condition(method.start)}")
    if method.listen is not None:
        parts.append(f"listens to {_condition(method.listen)}")
    if method.router:
        parts.append("router")
    return ", ".join(parts) or "never"


def _condition(condition: Any) -> str:
    if isinstance(condition, str):
        return condition
    word, branches = next(iter(condition.items()))
    texts = (
        f"({_condition(branch)})" if isinstance(branch, dict) else branch for branch in branches
    )
    return f" {word} ".join(texts)


def _feedback(feedback: Any, owner: str) -> Iterator[Item]:
    name = _by("human_feedback", feedback.provider)
    yield Item("person", name, owner, names.FEEDBACK, NOT_ASKED)
    if feedback.emit or feedback.learn:
        llm = feedback.llm or "crewAI's default"
        yield _items.llm_item(_model(llm), names.LLM, owner, "human_feedback")


def _persisted(flow: FlowParts, persist: Any, owner: str) -> Item:
    store = flow.persistence or persist.persistence
    name = _by("@persist", store)
    return Item("persist", name, owner, names.PERSIST, "not saved again")


def _by(what: str, provider: Any) -> str:
    if provider is None:
        return what
    name = provider if isinstance(provider, str) else type(provider).__qualname__
    return f"{what} ({name})"


def _model(llm: Any) -> Any:
    """`llm`, or what stands for one in a definition that was written as data."""
    return llm.get("model", llm) if isinstance(llm, dict) else llm
