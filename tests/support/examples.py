"""How many examples of what hypothesis draws a test tries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import settings

from support.entries import EVERY

Test = TypeVar("Test", bound=Callable[..., Any])


def examples(here: int, everywhere: int, **options: Any) -> Callable[[Test], Test]:
    """Of a test in ``make test``, and in ``make every-moment``, which runs it as well."""
    tried = settings(max_examples=everywhere if EVERY else here, deadline=None, **options)
    return lambda test: pytest.mark.some_entries(tried(test))
