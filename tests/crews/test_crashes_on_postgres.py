"""Some of the crashes of test_crashes.py, on Postgres: what differs there is the writing."""

from __future__ import annotations

import pytest

from crews.crashing import STRICT, check, check_memory
from support.databases import some_here
from support.postgres import Postgres

pytestmark = pytest.mark.crash


HERE = ("at once", "child workflow")
"""Scenarios that write at the same time, and by DBOS."""


@pytest.mark.parametrize("name", some_here(STRICT, HERE))
def test_some_positions(name: str, postgres: Postgres) -> None:
    check(name, postgres.url("postgres"), lambda test: test.positions(2, seed=len(name)))


@pytest.mark.every_moment
def test_memory(postgres: Postgres) -> None:
    check_memory(postgres.url("postgres"), 3)
