"""When a peer is taken for dead, by the looks of one worker; no process and no clock."""

from __future__ import annotations

import math

import pytest

from crewai_dbos._fleet.leases import RELEASED, Holder, Lease
from crewai_dbos._fleet.silence import Silence

LOOK = 0.01
"""Seconds that a look takes."""


def lease(name: str = "a", beat: int = 1, seconds: float = 6.0) -> Lease:
    return Lease(Holder(name, "token", "host:1", "app", "v"), {}, seconds, beat, False)


def looked(silence: Silence, at: float, *leases: Lease) -> set[str]:
    return {each.executor_id for each in silence.after(leases, at, at + LOOK)}


def test_a_silent_lease_is_looked_at_when_it_runs_out() -> None:
    silence, at = Silence(), 0.0
    assert not looked(silence, at, lease())
    while (due := silence.due()) > 0.3:
        at += 0.3
        assert not looked(silence, at, lease())
    at += due + 2 * LOOK
    assert looked(silence, at, lease()) == {"a"}
    assert 6.0 < at < 6.5, "no look's pause more than the lease"


def test_one_that_beats_has_all_of_its_lease() -> None:
    silence = Silence()
    for number in range(100):
        assert not looked(silence, number * 0.9, lease(beat=number + 1))
        assert silence.due() == pytest.approx(6.0)


def test_one_that_is_gone_is_not_waited_for() -> None:
    silence = Silence()
    assert looked(silence, 0, lease(beat=RELEASED)) == {"a"}
    assert silence.due() == math.inf
    assert looked(silence, 1, lease(beat=RELEASED), lease("b", seconds=30)) == {"a"}
    assert silence.due() == pytest.approx(30.0)


def test_time_in_which_nobody_looked_does_not_count() -> None:
    silence = Silence()
    looked(silence, 0, lease())
    assert not looked(silence, 100, lease())
    assert silence.due() == pytest.approx(4.0)


def test_nothing_is_due_while_looks_fail() -> None:
    silence = Silence()
    looked(silence, 0, lease())
    assert silence.due() == pytest.approx(6.0)
    assert silence.due() == math.inf
