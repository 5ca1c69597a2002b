from __future__ import annotations

from collections.abc import Iterator

import pytest

from crewai_dbos._stored import modules


@pytest.fixture(autouse=True, scope="package")
def classes_of_a_definition() -> Iterator[None]:
    """The classes of these tests are of the code that a definition belongs to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modules, "_defining", {"secrecy"})
        yield
