"""The entries that a test goes over: none of a kind is left out."""

from __future__ import annotations

import pytest

from support import entries
from support.entries import kind, some

LOOP = [
    "flow:rounds#1/definition#1",
    "flow:rounds#1/method:draft#1/crew:c#1/task:1#1/agent:Ann#1/llm#1",
    "flow:rounds#1/method:draft#1/crew:c#1/task:1#1/agent:Ann#1/tool:search(0d7069aa)#1",
    "flow:rounds#1/method:draft#1/crew:c#1/task:1#1/agent:Ann#1/llm#2",
    "flow:rounds#1/method:draft#1/crew:c#1/task:2.sum#1/agent:Bob#1/llm#1",
    "flow:rounds#1/method:draft#1/outcome#1",
    "flow:rounds#1/method:draft#2/crew:c#1/task:1#1/agent:Ann#1/llm#1",
    "flow:rounds#1/method:draft#2/outcome#1",
    "flow:rounds#1/method:draft#3/outcome#1",
    "flow:rounds#1/method:publish#1/outcome#1",
    "result",
]


@pytest.mark.some_entries
def test_one_of_each_kind_and_of_a_second_round() -> None:
    chosen = some(LOOP, str)
    if entries.EVERY:
        assert chosen == LOOP
        return
    assert [LOOP.index(entry) for entry in chosen] == [0, 1, 2, 3, 5, 6, 9, 10]
    assert {kind(entry) for entry in chosen} == {kind(entry) for entry in LOOP}
    assert some(reversed(LOOP), str) == chosen[::-1], "whatever order they were made in"


@pytest.mark.some_entries
def test_of_a_run_of_a_table_what_no_other_has_shown_or_its_middle() -> None:
    shown: set[str] = set()
    assert [LOOP.index(entry) for entry in some(LOOP, str, shown)] == (
        list(range(len(LOOP))) if entries.EVERY else [0, 1, 2, 3, 5, 6, 10]
    )
    other = [entry.replace("draft", "edit") for entry in LOOP[:-1]]
    other.append("flow:rounds#1/method:publish#1/knowledge.query#1")
    assert [other.index(entry) for entry in some(other, str, shown)] == (
        list(range(len(other))) if entries.EVERY else [10]
    )
    assert [LOOP.index(entry) for entry in some(LOOP, str, shown)] == (
        list(range(len(LOOP))) if entries.EVERY else [5]
    )


@pytest.mark.parametrize("digits", ["0d7069aa", "0d706947caab41ea935e2069116f232f"])
def test_digests_and_whose_they_are_make_no_kind(digits: str) -> None:
    assert kind(f"crew:a b#1/task:2.x#3/agent:O%2Fp#1/around:tool:search({digits})#12") == (
        "crew/task/agent/around:tool:search"
    )
    assert kind("-42/three: publish_all#1") == "/three/publish_all"
    assert kind("agent:x#1/todo:3#1/llm#1") == "agent/todo/llm"


def test_a_test_that_the_other_target_would_not_find() -> None:
    with pytest.raises(AssertionError, match="mark it with some_entries"):
        some(LOOP, str)
