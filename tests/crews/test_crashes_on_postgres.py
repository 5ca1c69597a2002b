"""The crashes of test_crashes.py, some of each scenario, on Postgres."""

from __future__ import annotations

import pytest

from crews.crashing import STRICT, check, check_memory
from support.postgres import Postgres

pytestmark = pytest.mark.crash


@pytest.mark.parametrize("name", STRICT)
def test_some_positions(name: str, postgres: Postgres) -> None:
    check(name, postgres.url("postgres"), lambda test: test.positions(2, seed=len(name)))


def test_memory(postgres: Postgres) -> None:
    check_memory(postgres.url("postgres"), 3)
