"""When a worker is dead to a peer, and when one asks whether its runs are its own."""

from __future__ import annotations

import pytest

from crewai_dbos._fleet import gate as gate_module
from crewai_dbos._fleet.gate import Gate
from crewai_dbos._fleet.leases import Holder, Lease
from crewai_dbos._fleet.silence import Silence

HOLDER = Holder("w1", "t", "host:1", "app", "v1")


def lease(beat_ms: int) -> Lease:
    return Lease(HOLDER, {}, 30.0, beat_ms, is_old=False)


class Watching:
    """A peer, which writes a beat of its own and then looks."""

    def __init__(self) -> None:
        self.silence = Silence()
        self.written = 0.0

    def look(self, now: float, beat_ms: int = 1, *, writes: bool = True) -> bool:
        if writes:
            self.written = now - 0.2
        return bool(self.silence.after([lease(beat_ms)], self.written, now))


def dead_after(watching: Watching, begin: float, pause: float = 2.5) -> float:
    """The first look from `begin` on that finds the worker dead."""
    now = begin
    while not watching.look(now):
        now += pause
        assert now < begin + 1000
    return now


def test_a_beat_that_does_not_change_for_a_lease() -> None:
    assert 30 < dead_after(Watching(), 0) <= 32.5


def test_a_beat_that_changes_is_none() -> None:
    watching = Watching()
    assert not any(watching.look(2.5 * number, beat_ms=number) for number in range(1, 100))


def test_a_lease_that_was_given_up() -> None:
    assert Watching().look(0, beat_ms=-1)


def test_a_database_that_takes_no_writes() -> None:
    """It answers, and nobody's beat changes: then all have a lease to come back."""
    watching = Watching()
    assert not any(watching.look(2.5 * number) for number in range(10))
    assert not any(watching.look(22.5 + 2.5 * number, writes=False) for number in range(1, 100))
    assert dead_after(watching, 300) >= 330


def test_nobody_could_look() -> None:
    watching = Watching()
    assert not any(watching.look(2.5 * number) for number in range(11))
    assert dead_after(watching, 100) >= 130


def test_slow_looks() -> None:
    """A machine that has much to do finds a dead worker, if later."""
    assert 30 < dead_after(Watching(), 0, pause=12) <= 60


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the gate."""
    found = [0.0]
    monkeypatch.setattr(gate_module, "clock", lambda: found[0])
    return found


def gate_of(owners: dict[str, str | None]) -> Gate:
    return Gate(30.0, list, lambda run_id: owners.get(run_id))


def test_a_gate_is_open_while_its_lease_lasts(now: list[float]) -> None:
    gate = gate_of({})
    for now[0] in range(0, 300, 10):
        assert gate.is_open("x", "1")
        gate.beaten(now[0])
    now[0] += 30
    assert not gate.is_open("x", "1")


def test_after_a_gap_each_execution_is_asked_about_once(now: list[float]) -> None:
    """Also one that DBOS had claimed and not begun when the process stood still."""
    owners: dict[str, str | None] = {"mine": "1", "taken": "9", "claimed": None}
    gate = gate_of(owners)
    now[0] = 40
    assert not gate.is_lost("mine", "1")
    assert not gate.is_open("mine", "1"), "a peer may take it until the lease is beaten"
    gate.beaten(40)
    for run_id in owners:
        assert not gate.is_open(run_id, "1")
    assert not gate.is_lost("mine", "1")
    assert gate.is_open("mine", "1")
    assert not gate.is_open("mine", "2"), "it is another execution"
    assert gate.is_lost("taken", "1")
    assert gate.is_lost("claimed", "1")
    assert not gate.is_open("taken", "1")
    now[0] = 80
    gate.beaten(80)
    assert not gate.is_open("mine", "1"), "there was a gap again"


def test_a_gap_that_only_the_database_has_seen(now: list[float]) -> None:
    gate = gate_of({"mine": "1"})
    gate.beaten(0, was_late=True)
    assert not gate.is_open("mine", "1")
    assert not gate.is_lost("mine", "1")
    assert gate.is_open("mine", "1")


def test_a_gate_forgets_what_has_ended(now: list[float]) -> None:
    gate = Gate(30.0, lambda: ["run-5"], lambda _: "1")
    now[0] = 40
    gate.beaten(40)
    for number in range(1001):
        assert not gate.is_lost(f"run-{number}", "1")
    assert gate.is_open("run-5", "1")
    assert not gate.is_open("run-6", "1")
