"""What a fork leaves out of a record, for records that a test could hardly bring about."""

from __future__ import annotations

from typing import Any

import pytest

from crewai_dbos._control.dependence import Dependents
from crewai_dbos._control.order_of_work import tasks_after
from crewai_dbos._control.recorded import Recorded
from crewai_dbos._dbos_seam.rows import RecordedRow
from crewai_dbos.errors import ForkError


def entry(kind: str = "llm", result: Any = None, **more: Any) -> dict[str, Any]:
    return {"v": 2, "kind": kind, "result": result, **more}


def ended(returned: Any = None, **did: Any) -> dict[str, Any]:
    """The end of a method, with what it did to the state."""
    return entry("method", {"returned": returned}, extra=did, background=True, concurrent=True)


def left_out(at: str, *rows: tuple[str, Any]) -> set[str]:
    """The names of what a fork at a place leaves out; steps of the user's by their number."""
    numbered = [RecordedRow(n, name, output) for n, (name, output) in enumerate(rows, 1)]
    recorded = Recorded("run", numbered, None)
    found = Dependents(recorded)
    found.drop(at)
    assert sorted(recorded.steps_of(found.entries)) == sorted(
        row.step_id for row in numbered if row.name in found.entries
    )
    return found.entries | {str(step) for step in found.steps}


AGENT = "crew:c#1/task:1#1/agent:A#1"


def test_a_save_or_a_handler_that_ends_late_hides_nothing() -> None:
    tasks = entry("definition", {"tasks": [{"async": False}, {"conditional": True}]})
    late = (
        ("crew:c#1/definition#1", tasks),
        (f"{AGENT}/llm#1", entry()),
        ("crew:c#1/condition#1", entry("condition")),
        (f"{AGENT}/memory.save(0a1b2c3d)#1", entry("memory", background=True)),
        (f"{AGENT}/llm#1/event:Done#1/handler:h#1/step:s#1", entry("step")),
        ("crew:c#1/task:2#1/agent:A#1/llm#1", entry()),
    )
    assert left_out(f"{AGENT}/llm#1", *late) == {name for name, _ in late[1:]}


def test_calls_of_one_reply() -> None:
    def tool(word: str) -> str:
        return f"tool:search({word * 8})#1"

    rows = (
        ("agent:A#1/llm#1", entry()),
        (f"agent:A#1/{tool('a')}", entry("tool", concurrent=True)),
        (f"agent:A#1/around:{tool('b')}/before#1", entry("callback")),
        (f"agent:A#1/{tool('b')}/agent:B#1/llm#1", entry()),
        (f"agent:A#1/{tool('b')}/agent:B#1/llm#2", entry()),
        (f"agent:A#1/{tool('b')}", entry("tool", concurrent=True)),
        (f"agent:A#1/around:{tool('b')}/after#1", entry("callback")),
        (f"agent:A#1/{tool('c')}", entry("tool", concurrent=True)),
        ("agent:A#1/llm#2", entry()),
        (f"agent:A#1/{tool('d')}", entry("tool", concurrent=True)),
    )
    after = {name for name, _ in (*rows[4:7], *rows[8:])}
    assert left_out(f"agent:A#1/{tool('b')}/agent:B#1/llm#2", *rows) == after
    assert left_out(f"agent:A#1/{tool('b')}/agent:B#1/llm#1", *rows) == {rows[3][0], *after}


def test_tools_that_code_of_the_user_s_calls_one_after_the_other() -> None:
    rows = tuple(
        (f"flow:f#1/method:m#1/tool:search({word * 8})#1", entry("tool", concurrent=True))
        for word in "abc"
    )
    assert left_out(rows[1][0], *rows) == {rows[1][0], rows[2][0]}


def test_a_step_of_a_plan_and_a_look_into_a_cache_lead_to_what_came_after() -> None:
    look = "agent:A#1/cache(0a1b2c3d)#1"
    rows = (
        ("agent:A#1/todo:1#1/llm#1", entry()),
        ("agent:A#1/todo:2#1/llm#1", entry()),
        ("agent:A#1/todo:1#1", entry("todo", concurrent=True)),
        ("agent:A#1/todo:3#1/llm#1", entry()),
        ("agent:A#1/todo:2#1", entry("todo", concurrent=True)),
        ("agent:A#1/todo:3#1", entry("todo", concurrent=True)),
        (look, entry("cache", concurrent=True)),
        ("agent:A#1/tool:search(0a1b2c3d)#1", entry("tool", concurrent=True)),
    )
    third = {name for name, _ in (rows[3], *rows[5:])}
    assert left_out("agent:A#1/todo:1#1", *rows) == {rows[0][0], rows[2][0], *third}
    assert left_out(look, *rows) == {look, rows[-1][0]}


def test_how_work_ended_is_left_out_with_a_part_of_it() -> None:
    rows = (
        (f"{AGENT}/llm#1", entry()),
        (f"{AGENT}/end#1", entry("end", background=True)),
        ("crew:c#1/task:1#1/given_up#1", entry("given_up", background=True)),
    )
    assert left_out(f"{AGENT}/llm#1", *rows) == {name for name, _ in rows}


def methods(**listens: Any) -> tuple[str, Any]:
    found = {
        name: {"start": None, "listen": None, "router": False, **how}
        for name, how in listens.items()
    }
    return "flow:f#1/definition#1", entry("definition", found)


def end_of(method: str, number: int = 1) -> str:
    return f"flow:f#1/method:{method}#{number}/outcome#1"


def test_routers_side_by_side_are_told_apart_by_what_they_have_returned() -> None:
    made_of = methods(
        one={"start": True},
        two={"start": True},
        way={"listen": "one", "router": True},
        path={"listen": "two", "router": True},
        west={"listen": "to the west"},
        east={"listen": {"or": ["to the east", "one"]}},
    )
    rows = (
        made_of,
        (end_of("one"), ended()),
        (end_of("two"), ended()),
        (end_of("way"), ended("to the west")),
        (end_of("path"), ended("to the east")),
        (end_of("west"), ended()),
        (end_of("east"), ended()),
    )
    assert left_out("flow:f#1/method:path#1", *rows) == {end_of("path"), end_of("east")}
    # What is not known may have been either: here a field of the state was returned.
    unknown = [(end_of("path"), entry("method", {"is": ["x"]}, background=True))]
    rows = (*rows[:4], *unknown, *rows[5:])
    assert left_out("flow:f#1/method:path#1", *rows) >= {
        end_of("path"),
        end_of("west"),
        end_of("east"),
    }


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ({"state": {"a": 1}}, {"state": {"b": 1}}, False),
        ({"state": {"a": 1}}, {"state": {"a": 2}}, True),
        ({"state": {"$map": [[1, 1]]}}, {"removed": ["1"]}, True),
        ({"again": ["self.state.a: no"]}, {"state": {"a": 2}}, True),
        ({"state": {"a": 1}}, {"again": ["its result: no"]}, True),
        ({"state": {"a": 1}}, {"state": {"b": 1}, "same": [[["b"], ["a", 0]]]}, True),
        ({}, {"unsettled": {"b": ["flow:f#1/method:left#1"]}}, True),
    ],
)
def test_what_a_method_has_stored_of_another(first: Any, second: Any, shared: bool) -> None:
    rows = (
        methods(left={"start": True}, right={"start": True}),
        (end_of("left"), ended(**first)),
        (end_of("right"), ended(**second)),
    )
    assert (end_of("right") in left_out("flow:f#1/method:left#1", *rows)) == shared
    assert end_of("left") not in left_out("flow:f#1/method:right#1", *rows)


def test_a_method_that_had_begun_has_not_waited() -> None:
    rows = (
        methods(a={"start": True}, b={"listen": {"or": ["a", "c"]}}, c={"start": True}),
        (end_of("a"), ended()),
        ("flow:f#1/method:b#1/llm#1", entry()),
        (end_of("c"), ended()),
        (end_of("b"), ended()),
        (end_of("b", 2), ended()),
    )
    assert left_out("flow:f#1/method:c#1", *rows) == {end_of("c"), end_of("b", 2)}


def test_without_a_definition_all_that_came_later_depends() -> None:
    rows = (
        ("crew:c#1/task:1#1/agent:A#1/llm#1", entry()),
        ("crew:c#1/task:2#1/agent:A#1/llm#1", entry()),
        ("crew:c#1/task:3#1/agent:A#1/llm#1", entry()),
    )
    assert left_out("crew:c#1/task:2#1", *rows) == {name for name, _ in rows[1:]}


def test_steps_of_the_user_s_own() -> None:
    rows = (
        ("before", None),
        ("agent:A#1/llm#1", entry()),
        ("agent:B#1/dbos#1", entry("pin", ids=1)),
        ("inside", None),
        ("between", None),
        ("agent:A#2/llm#1", entry()),
    )
    found = left_out("agent:A#2", *rows)
    assert found == {"agent:A#2/llm#1"}
    recorded = Recorded("run", [RecordedRow(n, *row) for n, row in enumerate(rows, 1)], None)
    dropped = Dependents(recorded)
    dropped.drop("agent:B#1")
    assert sorted(recorded.steps_of(dropped.entries)) == [3, 4, 6]
    assert dropped.steps == {5}
    with pytest.raises(ForkError, match="made DBOS steps while"):
        left_out("agent:A#1", rows[1], ("beside", None), ("agent:A#1/llm#2", entry()))


def test_what_tasks_see() -> None:
    tasks = [
        {"async": False},
        {"async": True},
        {"async": True, "context": [1]},
        {"async": False, "alone": True},
        {"async": True, "context": [3, 0]},
        {"async": False},
    ]
    assert tasks_after(tasks, 1) == {2, 3, 5, 6}
    assert tasks_after(tasks, 2) == {6}
    assert tasks_after(tasks, 3) == {5, 6}
    assert tasks_after(tasks, 4) == {6}
    assert tasks_after(tasks, 6) == set()
