"""One DBOS for all tests of DBOSAgent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.launching import launched_in


@pytest.fixture(scope="package", autouse=True)
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with launched_in(tmp_path_factory.mktemp("agent")):
        yield
