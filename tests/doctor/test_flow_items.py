"""What the table says of each part of a flow."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from crewai import LLM
from crewai.flow.conversational import ConversationConfig
from crewai.flow.flow import Flow, and_, listen, or_, router, start
from crewai.flow.human_feedback import human_feedback
from crewai.flow.persistence import SQLiteFlowPersistence, persist
from crewai.memory.unified_memory import Memory
from crewai.tools import BaseTool
from pydantic import BaseModel

from crewai_dbos import DBOSFlow
from crewai_dbos.doctor import Item, inspect
from crewai_dbos.doctor._flow_items import NOT_ASKED, RESTORED
from crewai_dbos.doctor._items import AGAIN, ANSWERED
from pages.blocks import blocks, text_of
from support.names import unique

KEPT = "as the methods that had ended left it"


class Report(BaseModel):
    topic: str = ""


class Search(BaseTool):
    name: str = "search"
    description: str = "Search."

    def _run(self, query: str) -> str:
        raise AssertionError("The doctor calls nothing.")


class Reviewer:
    def request_feedback(self, context: Any, flow: Any) -> str:
        raise AssertionError("The doctor asks nobody.")


class Keyboard:
    def request_input(self, message: str, flow: Any, metadata: Any = None) -> str:
        raise AssertionError("The doctor asks nobody.")


class Writing(Flow[Report]):
    @start("again")
    def draft(self) -> None:
        raise AssertionError("The doctor runs no method.")

    @router(draft)
    def review(self) -> str:
        raise AssertionError("The doctor runs no method.")

    @listen(or_("good", and_(draft, review)))
    async def publish(self) -> None:
        raise AssertionError("The doctor runs no method.")


def durable(flow: Any, **options: Any) -> DBOSFlow:
    return DBOSFlow(flow_name=unique("table"), orig_flow=flow, **options)


def rows(what: Any, *kinds: str) -> list[tuple[str, str, str | None, str]]:
    return [
        (item.kind, item.name, item.seam, item.recovery)
        for item in inspect(what).items
        if item.kind in kinds or not kinds
    ]


def test_methods_and_state() -> None:
    flow = durable(Writing)
    report = inspect(flow)
    assert report.subject == f"DBOSFlow {flow.flow_name!r}"
    assert rows(flow) == [
        ("method", "draft (start at again)", "method:draft", RESTORED),
        ("method", "review (listens to draft, router)", "method:review", RESTORED),
        (
            "method",
            "publish (listens to good or (draft and review))",
            "method:publish",
            RESTORED,
        ),
        ("state", "Report", "state, method:...", KEPT),
    ]
    assert all(item.recorded for item in report.items)
    assert report.findings == ()


@pytest.mark.parametrize("make", [lambda: Writing, Writing])
def test_a_plain_flow_has_the_items_of_a_durable_one(make: Any) -> None:
    what = make()
    report = inspect(what)
    assert report.subject == "Flow 'Writing', not durable; what a DBOSFlow around it would record"
    assert report.items == inspect(durable(Writing)).items


def test_a_plain_flow_that_a_durable_one_is_around() -> None:
    (alone,) = inspect(Writing).findings
    assert alone.fix.startswith("Wrap it: DBOSFlow(flow_name=..., orig_flow=Writing).")
    around = durable(Writing)
    for plain in (Writing, Writing()):
        (finding,) = inspect(plain).findings
        assert finding.fix == f"Use the DBOSFlow {around.flow_name!r}, which is around it."


def test_states() -> None:
    class Untyped(Flow):
        @start()
        def begin(self) -> None: ...

    class Given(Flow):
        initial_state = Report(topic="otters")

        @start()
        def begin(self) -> None: ...

    for cls, state in ((Untyped, "dict"), (Given, "Report")):
        for flow in (cls, durable(cls)):
            assert [row[1] for row in rows(flow, "state")] == [state]


def test_people() -> None:
    class Asking(Flow[Report]):
        @start()
        @human_feedback(
            message="Good?",
            emit=["good", "bad"],
            llm=LLM(model="openai/gpt-4o", api_key="sk-0123456789"),
            provider=Reviewer(),
        )
        def draft(self) -> None:
            self.ask("What about?")

        @listen("good")
        @human_feedback(message="Sure?")
        def publish(self) -> None: ...

    class Typing(Asking):
        input_provider = Keyboard()

        @start()
        def draft(self) -> None: ...

    asked = [
        Item("person", "ask", "flow", "ask", NOT_ASKED),
        Item("person", "human_feedback (Reviewer)", "method 'draft'", "feedback", NOT_ASKED),
        Item("llm", "gpt-4o (human_feedback)", "method 'draft'", "llm", ANSWERED),
        Item("person", "human_feedback", "method 'publish'", "feedback", NOT_ASKED),
    ]
    for flow in (Asking, durable(Asking)):
        assert [i for i in inspect(flow).items if i.kind in ("person", "llm")] == asked
    (waits,) = inspect(durable(Asking)).findings
    assert waits.rule == "waits-for-people"
    assert waits.what.endswith(": ask of flow, human_feedback of method 'publish'.")
    for flow in (Typing, durable(Typing)):
        assert rows(flow, "person") == [("person", "ask (Keyboard)", "ask", NOT_ASKED)]


def test_kept_states(tmp_path: Path) -> None:
    store = SQLiteFlowPersistence(str(tmp_path / "states.sqlite"))

    @persist(store)
    class Whole(Flow):
        @start()
        def begin(self) -> None: ...

    class Part(Flow):
        @start()
        @persist(store)
        def begin(self) -> None: ...

    def persisted(flow: Any) -> list[Item]:
        return [item for item in inspect(flow).items if item.kind == "persist"]

    name = "@persist (SQLiteFlowPersistence)"
    for cls, owner in ((Whole, "flow"), (Part, "method 'begin'")):
        item = Item("persist", name, owner, "persist", "not saved again")
        assert persisted(cls) == persisted(durable(cls)) == [item]


def test_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path))

    class Remembering(Flow):
        @start()
        def begin(self) -> None:
            self._keep("otters swim")

        def _keep(self, what: str) -> None:
            self.remember(what)

    inspect(Remembering)
    assert list(tmp_path.iterdir()) == [], "nothing is made of a class"
    model = Memory.model_fields["llm"].default
    for flow in (Remembering, durable(Remembering)):
        assert rows(flow, "memory", "llm", "embedder") == [
            (
                "memory",
                "Memory",
                "memory.recall, memory.save",
                f"{ANSWERED}; a save cut short is done again",
            ),
            ("llm", model, "memory.llm", ANSWERED),
            ("embedder", "memory", "embedding(...)", ANSWERED),
        ]
    assert rows(durable(Writing), "memory") == [], "crewAI makes one for every flow"


def test_a_conversation() -> None:
    @ConversationConfig(
        llm="openai/gpt-4o",
        default_intents=["order", "converse"],
        intent_llm="openai/gpt-4o-mini",
    )
    class Desk(Flow):
        @listen("order")
        def take_order(self) -> None: ...

    for flow in (Desk, durable(Desk)):
        assert rows(flow, "state", "llm") == [
            ("state", "ConversationState", "state, method:...", KEPT),
            ("llm", "openai/gpt-4o (llm)", "llm", ANSWERED),
            ("llm", "openai/gpt-4o-mini (intent_llm)", "llm", ANSWERED),
        ]
        names = [row[1] for row in rows(flow, "method")]
        assert names[0] == "take_order (listens to order)"
        assert "converse_turn (listens to converse)" in names
    assert inspect(durable(Desk)).findings == ()


def test_a_declared_flow(tmp_path: Path) -> None:
    path = tmp_path / "flow.yaml"
    tool = {"call": "tool", "ref": f"{__name__}:Search", "with": {"query": "${state.topic}"}}
    each = {"call": "each", "in": "outputs.find", "do": [{"name": "again", "action": tool}]}
    methods = {"find": {"start": True, "do": tool}, "go_on": {"listen": "find", "do": each}}
    state = {"type": "dict", "default": {"topic": "otters"}}
    path.write_text(yaml.safe_dump({"name": "Declared", "state": state, "methods": methods}))

    def declared() -> Any:
        return Flow.from_declaration(path=path)

    recorded = ("tool", "search", "tool:search(...)", ANSWERED)
    for flow in (declared(), durable(declared)):
        assert rows(flow) == [
            ("method", "find (start)", "method:find", RESTORED),
            ("method", "go_on (listens to find)", "method:go_on", RESTORED),
            ("state", "dict", "state, method:...", KEPT),
            recorded,
        ]
    assert inspect(durable(declared)).findings == ()
    without = durable(declared, tool_step_config=None)
    assert rows(without, "tool") == [("tool", "search", None, AGAIN)]
    assert [finding.rule for finding in inspect(without).findings] == ["undecorated-tool"]


def test_the_page_shows_what_its_flow_gives(module: Callable[[str, str], None]) -> None:
    section = text_of("docs/doctor.md").partition("## A flow\n")[2].partition("\n## ")[0]
    (program,) = blocks("docs/doctor.md", section="a-flow")
    shown = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    head = """
from crewai.flow.flow import Flow, listen, start
from crewai.flow.human_feedback import human_feedback
from crewai_dbos import DBOSFlow
from pydantic import BaseModel

class Report(BaseModel):
    text: str = ""

class Mail:
    def request_feedback(self, context, flow): ...
"""
    module("of_the_page", head + program)
    report = inspect(import_module("of_the_page").flow)
    assert report.findings == ()
    assert [[i.owner, i.kind, i.name, i.seam, i.recovery] for i in report.items] == shown[2:]


def test_a_function_without_source() -> None:
    names: dict[str, Any] = {"Flow": Flow, "start": start}
    source = """
import time

class Typed(Flow):
    @start()
    def begin(self):
        return time.time()
"""
    exec(compile(source, "<typed>", "exec"), {**names, "__name__": "typed"}, names)
    assert inspect(durable(names["Typed"])).findings == ()
