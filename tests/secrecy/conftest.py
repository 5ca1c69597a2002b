from __future__ import annotations

from collections.abc import Iterator

import pytest

from crewai_dbos._secrets import known
from crewai_dbos._stored import modules


@pytest.fixture(autouse=True, scope="package")
def classes_of_a_definition() -> Iterator[None]:
    """The classes of these tests are of the code that a definition belongs to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modules, "_defining", {"secrecy"})
        yield


@pytest.fixture(autouse=True)
def secrets_of_one_test() -> Iterator[None]:
    """What a test tells of secrets is not cut from what later ones say."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known, "_known", known._Known())
        yield
