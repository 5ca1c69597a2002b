"""Those who are told what happens in a run: what begins in it, and how that ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Happening:
    """Work in a place, or a call, while it goes on and when it has ended.

    Attributes:
        name: The path of the place, or the name of the call.
        kind: Of the entry; of a place ``crew``, ``flow``, ``agent``, ``task`` or ``method``.
        request: What is sent, of a call.
        replayed: Whether it is answered from the record.
        payload: What is recorded of a call, as soon as it is.
        facts: What else is known of it.
    """

    name: str
    kind: str
    request: Mapping[str, Any] = field(default_factory=dict)
    replayed: bool = False
    payload: Mapping[str, Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Listener:
    """Somebody who is told; whatever goes wrong there is no concern of the run.

    One that has no `asks` and `hears` of its own takes a request with its call.
    """

    def hearing(self, happening: Happening) -> AbstractContextManager[Any]:
        """Is entered when it begins, and left when it has ended."""
        raise NotImplementedError

    def asks(self, name: str) -> None:
        """The call `name` makes a request of an LLM, perhaps not its first."""

    def hears(self, name: str, text: str) -> None:
        """A piece of the answer to that has come."""


class Listeners:
    """Those who are told of one execution of a run."""

    def __init__(self) -> None:
        self._all: tuple[Listener, ...] = ()
        self._open: dict[str, Happening] = {}

    def add(self, listener: Listener) -> None:
        """Tell `listener` of what begins from now on, if it is not told already."""
        if not any(each is listener for each in self._all):
            self._all = (*self._all, listener)

    def told(self, happening: Happening) -> AbstractContextManager[Happening]:
        """The block is what happens."""
        return self._telling(happening) if self._all else nullcontext(happening)

    @contextmanager
    def _telling(self, happening: Happening) -> Iterator[Happening]:
        self._open[happening.name] = happening
        try:
            with ExitStack() as stack:
                for listener in self._all:
                    stack.enter_context(listener.hearing(happening))
                yield happening
        finally:
            self._open.pop(happening.name, None)

    def note(self, name: str, **facts: Any) -> None:
        """Add to what is known of what goes on under `name`."""
        if (happening := self._open.get(name)) is not None:
            happening.facts.update(facts)

    def replays(self, name: str) -> None:
        """What goes on under `name` is answered from the record after all."""
        if (happening := self._open.get(name)) is not None:
            happening.replayed = True

    def asks(self, name: str) -> None:
        for listener in self._all:
            listener.asks(name)

    def hears(self, name: str, text: str) -> None:
        for listener in self._all:
            listener.hears(name, text)
