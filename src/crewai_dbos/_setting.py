"""Context variables that are set for a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Token
from typing import Any, Protocol, TypeVar

T_contra = TypeVar("T_contra", contravariant=True)
T = TypeVar("T")


class _Variable(Protocol[T_contra]):
    def set(self, value: T_contra, /) -> Token[Any]: ...

    def reset(self, token: Token[Any], /) -> None: ...


@contextmanager
def setting(variable: _Variable[T], value: T) -> Iterator[T]:
    """`variable`, a `ContextVar` or a `RunVar`, has `value` in the block, and then what it had."""
    token = variable.set(value)
    try:
        yield value
    finally:
        variable.reset(token)
