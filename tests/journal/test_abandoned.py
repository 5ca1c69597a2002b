"""Whether an abandoned call is abandoned again: the table above `JoinedWork.abandoned`."""

from __future__ import annotations

import pytest

from crewai_dbos._dbos_seam.rows import RecordedRow
from crewai_dbos._journal.entry import Entry, read_entry
from crewai_dbos._journal.joined_work import JoinedWork
from crewai_dbos._stored import names

CALL = "work#1/slow#1"
MARK = f"{CALL}/{names.ABANDONED}#1"


def entry(step_id: int, name: str, **stored: object) -> Entry:
    output = {"v": names.ENTRY_VERSION, "kind": "work", "result": None, **stored}
    found = read_entry(RecordedRow(step_id, name, output))
    assert found is not None
    return found


def is_abandoned_again(*rows: Entry, outside: tuple[int, ...] = ()) -> bool:
    joined = JoinedWork("run")
    for row in rows:
        joined.load(row)
    return joined.abandoned(CALL, rows, outside) is not None


@pytest.mark.parametrize(
    ("after", "outside", "again"),
    [
        pytest.param([], (), False, id="nothing"),
        pytest.param([(5, "work#1/other#1/given_up#1", {})], (), False, id="other marks"),
        pytest.param([(5, f"{CALL}/llm#1", {})], (), False, id="inside the work"),
        pytest.param([(5, "work#1/beside#1/b#1", {})], (), False, id="a branch begun before"),
        pytest.param([(5, "work#1/new#1", {"concurrent": True})], (), False, id="beside others"),
        pytest.param([(5, "work#1/next#1", {})], (), True, id="in sequence"),
        pytest.param([(5, "other#1/next#1", {})], (), True, id="in sequence, elsewhere"),
        pytest.param([], (5,), True, id="a step of the workflow"),
        pytest.param([], (2,), False, id="a step of the workflow before"),
        pytest.param([(6, f"{CALL}/llm#1", {})], (5,), False, id="a step, and then resumed"),
    ],
)
def test_what_follows_the_mark_of_an_abandoned_call_says_what_its_caller_did(
    after: list[tuple[int, str, dict[str, object]]], outside: tuple[int, ...], again: bool
) -> None:
    before = [entry(1, "work#1/a#1"), entry(3, "work#1/beside#1/a#1")]
    rows = [*before, entry(4, MARK), *(entry(n, name, **more) for n, name, more in after)]
    assert is_abandoned_again(*rows, outside=outside) is again


def test_a_call_without_a_mark_was_not_abandoned() -> None:
    assert not is_abandoned_again(entry(1, "work#1/a#1"), outside=(2,))
