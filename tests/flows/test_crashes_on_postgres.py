"""Some of the crashes of test_crashes.py, on Postgres: what differs there is the writing."""

from __future__ import annotations

import pytest

from flows.crashing import check
from flows.test_crashes import STRICT
from support.databases import some_here
from support.postgres import Postgres

pytestmark = pytest.mark.crash


HERE = ("parallel", "own steps", "reviewed")
"""Scenarios that write at the same time, by DBOS, and what people say."""


@pytest.mark.parametrize("name", some_here(STRICT, HERE))
def test_some_positions(name: str, postgres: Postgres) -> None:
    check(name, postgres.url("postgres"), lambda test: test.positions(2, seed=len(name)))
