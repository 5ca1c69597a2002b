"""When a worker is dead to a peer."""

from __future__ import annotations

from crewai_dbos._fleet.leases import Holder, Lease
from crewai_dbos._fleet.silence import Silence

HOLDER = Holder("w1", "t", "host:1", "app", "v1")


def lease(beat_ms: int) -> Lease:
    return Lease(HOLDER, {}, 30.0, beat_ms)


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
