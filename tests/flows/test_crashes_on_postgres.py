"""The same on Postgres, at some positions of each flow: what differs there is the writing."""

from __future__ import annotations

import pytest

from flows.crashing import check
from flows.test_crashes import STRICT
from support.postgres import Postgres

pytestmark = pytest.mark.crash


@pytest.mark.parametrize("name", STRICT)
def test_some_positions(name: str, postgres: Postgres) -> None:
    check(name, postgres.url("postgres"), lambda test: test.positions(2, seed=len(name)))
