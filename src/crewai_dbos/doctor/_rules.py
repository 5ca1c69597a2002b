"""The rules. Each looks at the whole subject and yields what it finds.

One more finding has no rule here: a definition that raises a `DefinitionError` when its module is
imported (its name is missing or taken, its options contradict each other), see `_load`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from crewai.memory.unified_memory import Memory
from crewai.utilities.string_utils import sanitize_tool_name

from crewai_dbos._crewai_seam.agent import is_in_default_folder, memory_behind
from crewai_dbos._dbos_seam.decorated import decorated_kind
from crewai_dbos._objects.tools import tool_function
from crewai_dbos._secrets import known
from crewai_dbos._stored.type_paths import type_path
from crewai_dbos.doctor import _effects
from crewai_dbos.doctor._application_rules import APPLICATION_RULES
from crewai_dbos.doctor._captured import captured_state
from crewai_dbos.doctor._flow_rules import FLOW_RULES, unstorable_state
from crewai_dbos.doctor._items import CREW
from crewai_dbos.doctor._report import SEVERITIES, Finding, Item, Severity, found
from crewai_dbos.doctor._sources import Sources, followed
from crewai_dbos.doctor._subject import Subject
from crewai_dbos.errors import UnstorableValueError

_FUNCTIONS = ("callback", "guardrail", "hook", "handler")

Rule = Callable[[Subject], Iterator[Finding]]


def secret(subject: Subject) -> Iterator[Finding]:
    secrets = known.named().items()
    for text in subject.texts:
        for name in sorted({name for value, name in secrets if value in text.text}):
            yield found(
                "secret",
                "error",
                f"{text.place} contains the value of {name}. It {text.fate}.",
                "Take it out, and read it inside the tool that needs it.",
            )


def same_tool_name(subject: Subject) -> Iterator[Finding]:
    # Two agents of one role may have the same tool, and so may two tasks of one name.
    counted = Counter(
        (id(item.holder), item.owner, sanitize_tool_name(item.name))
        for item in subject.items
        if item.kind == "tool" and item.live is not None
    )
    for (_, owner, name), count in counted.items():
        if count > 1:
            yield found(
                "same-tool-name",
                "error",
                f"{count} tools of {owner} are called {name!r}. Their calls are recorded under "
                "one name, so one can be answered with the result of another.",
                "Give each tool its own name.",
            )


def local_model(subject: Subject) -> Iterator[Finding]:
    for item in subject.items:
        if item.kind == "model" and (why := _not_importable(item.live)):
            # Inside a user's workflow the crew's task is not stored, so there it would work.
            severity: Severity = "warning" if subject.crew else "error"
            yield found(
                "local-model",
                severity,
                f"The model {item.name} of {item.owner}: {why}. A run of its own is refused.",
                "Define the model at the top level of a module.",
            )


def local_result(subject: Subject) -> Iterator[Finding]:
    for item in subject.items:
        if item.kind != "tool" or not item.recorded or item.live is None:
            continue
        if not (why := _not_importable(item.live.result_schema)):
            continue
        fails = decorated_kind(tool_function(item.live)) == "workflow"
        yield found(
            "local-result",
            "error" if fails else "warning",
            f"The result of tool {item.name!r} of {item.owner}: {why}. "
            + ("DBOS can't store it, so the call fails." if fails else "Its text is recorded."),
            "Define the model at the top level of a module, or return plain data.",
        )


def undecorated_tool(subject: Subject) -> Iterator[Finding]:
    for item in subject.items:
        if item.kind == "tool" and not item.recorded:
            decorate = "Decorate its function with @DBOS.step(), or pass" if item.live else "Pass"
            yield found(
                "undecorated-tool",
                "warning",
                f"Tool {item.name!r} of {item.owner} is not recorded: after a crash its finished "
                "calls are made again.",
                f"{decorate} tool_step_config=StepConfig().",
            )


def unrecorded_llm(subject: Subject) -> Iterator[Finding]:
    for item in subject.items:
        if item.kind == "llm" and not item.recorded:
            yield found(
                "unrecorded-llm",
                "warning",
                f"The LLM {item.name} of {item.owner} is not recorded: after a crash it is asked "
                "again.",
                "Wrap it: DBOSLLM(llm), and call the crew inside a @DBOS.workflow().",
            )


def local_memory(subject: Subject) -> Iterator[Finding]:
    memories = [item for item in subject.items if item.kind == "memory"]
    here = [item.owner for item in memories if _is_in_default_folder(item.live)]
    on_sqlite = subject.application.on_sqlite
    if here and not on_sqlite:
        owners = ", ".join(dict.fromkeys(here))
        yield found(
            "local-memory",
            "hint" if on_sqlite is None else "warning",
            f"The memory of {owners} is a folder of this machine, crewAI's default. A run that "
            "goes on at another machine does not find there what it has saved.",
            "If there are several machines, give Memory(storage=...) a store that all of them "
            "reach.",
        )


def changing_state(subject: Subject) -> Iterator[Finding]:
    for item in subject.items:
        state = captured_state(item.live) if item.kind in _FUNCTIONS else []
        if state:
            yield found(
                "changing-state",
                "warning",
                f"The {item.kind} {item.name} of {item.owner} keeps state between its calls: "
                f"{', '.join(state)}. A fresh process starts with a new one, so on recovery it may "
                "do or decide something else.",
                "Take what it needs from its arguments, or from where the state outlives the "
                "process.",
            )


def changing_definition(subject: Subject) -> Iterator[Finding]:
    source = Sources()
    for function in subject.factories:
        if (code := source.code_of(function)) is None:
            continue
        codes = followed(code, source.code_of)
        calls = [
            each.place(call, code)
            for each in codes
            for kind, call in _effects.of_code(each)
            if kind == "value"
        ]
        if calls:
            yield found(
                "changing-definition",
                "warning",
                f"The function {function.__qualname__} builds the definition and calls "
                f"{', '.join(calls)}. A fresh process builds another one, and its runs stop if "
                "tasks, agents or tools differ.",
                "Build the same one each time, and pass what changes as inputs.",
            )


def waits_for_people(subject: Subject) -> Iterator[Finding]:
    # Others name the provider that asks.
    asked = [item for item in subject.items if item.kind == "person" and item.recorded]
    asks = [f"{item.name} of {item.owner}" for item in asked if not item.name.endswith(")")]
    budgets = [item for item in subject.items if item.kind == "budget"]
    asks += [f"{b.live} of {b.owner}" for b in budgets if b.live.on_limit == "ask"]
    if asks:
        where = ", ".join(asks)
        yield found(
            "waits-for-people",
            "hint",
            f"A run waits for a person: {where}.",
            "See what is open, and answer: crewai-dbos inbox",
        )


def replaced_method(subject: Subject) -> Iterator[Finding]:
    for thing, method in subject.replaced:
        yield found(
            "replaced-method",
            "error",
            f"The method {method} of {thing} has been replaced on the object, as crewAI does for "
            "a2a. What it does is not recorded, so a run with it is refused.",
            "Leave a2a out and ask the remote agent in a tool, or derive a class that overrides "
            "the method.",
        )


def not_durable(subject: Subject) -> Iterator[Finding]:
    for what, fix in subject.plain:
        yield found(
            "not-durable",
            "warning",
            f"{what}, so nothing of it is recorded.",
            fix,
        )


def crew_alone(subject: Subject) -> Iterator[Finding]:
    given = [item.name for item in subject.items if item.owner == CREW and _is_shared(item)]
    given += [
        f"{item.name} of {item.owner}"
        for item in subject.items
        if item.kind == "tool" and item.owner.startswith("task ")
    ]
    if given and subject.crew and not subject.plain:
        yield found(
            "crew-alone",
            "hint",
            f"The crew gives its agents {', '.join(given)}. Outside a workflow each of its tasks "
            "is a run of its own, and is refused, because a fresh process would not find that.",
            "Call the crew inside a @DBOS.workflow().",
        )


def replayed(subject: Subject) -> Iterator[Finding]:
    for item in subject.items:
        if item.kind in _FUNCTIONS and not item.recorded and not captured_state(item.live):
            fix = "Decorate it with @DBOS.step() if it must not"
            if item.kind == "hook":
                fix += (
                    ", unless it changes what it is given: a recorded call does not make that "
                    "change again. Record only the effect inside it"
                )
            yield found(
                "replayed",
                "hint",
                f"The {item.kind} {item.name} of {item.owner} is not recorded: it runs again when "
                "a run is replayed.",
                f"{fix}.",
            )


RULES: tuple[Rule, ...] = (
    secret,
    same_tool_name,
    replaced_method,
    local_model,
    local_result,
    undecorated_tool,
    unrecorded_llm,
    local_memory,
    changing_state,
    changing_definition,
    waits_for_people,
    not_durable,
    *APPLICATION_RULES,
    crew_alone,
    replayed,
    *FLOW_RULES,
)

SAID_LATER: frozenset[Rule] = frozenset({local_result, undecorated_tool, unstorable_state})
"""Rules whose findings a run warns of itself, when it comes to them."""


def findings(subject: Subject, rules: tuple[Rule, ...] = RULES) -> tuple[Finding, ...]:
    """What `rules` find, worst first, in the order of the rules."""
    everything = [finding for rule in rules for finding in rule(subject)]
    return tuple(sorted(everything, key=lambda finding: SEVERITIES.index(finding.severity)))


def _is_shared(item: Item) -> bool:
    """Whether this item of a crew is handed to its agents."""
    return item.kind in ("memory", "knowledge") or item.name.endswith(
        ("(step_callback)", "(function_calling_llm)")
    )


def _is_in_default_folder(memory: Any) -> bool:
    inner = memory_behind(memory)
    return isinstance(inner, Memory) and is_in_default_folder(inner)


def _not_importable(model: Any) -> str | None:
    """Why `model` can't be stored by its import path; None if it can, or is no class."""
    if not isinstance(model, type):
        return None
    try:
        type_path(model)
    except UnstorableValueError as error:
        return str(error).partition(". ")[0]
    return None
