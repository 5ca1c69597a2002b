"""Knowledge in a run: queries are recorded, and sources are loaded for one that is not."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crewai.knowledge.knowledge import Knowledge

from crewai_dbos import _patches
from crewai_dbos._classes import durable_class, overrides, with_its_own
from crewai_dbos._journal import run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.scope import Scope
from crewai_dbos._objects.stand_ins import as_it_is
from crewai_dbos._setting import setting
from crewai_dbos._stored import names
from crewai_dbos._threads import on_a_thread

_SCOPE = "_crewai_dbos_scope"
_LOADING = "_crewai_dbos_loading"
_PUT_OFF = "_crewai_dbos_put_off"

_putting_off: ContextVar[bool] = ContextVar("crewai_dbos_putting_off", default=False)


def durable_knowledge(knowledge: Any, scope: Scope, *, loaded: bool = True) -> Any:
    """A copy of `knowledge`, a `Knowledge`, for one run whose queries are recorded.

    Args:
        loaded: Whether its sources are in its storage already.
    """
    if not issubclass(type(knowledge), Knowledge):
        return as_it_is("knowledge", knowledge)
    copied = copy.copy(knowledge)
    copied.__class__ = durable_class(_DurableKnowledge, with_its_own(copied, _DurableKnowledge))
    copied.__dict__[_SCOPE] = scope
    copied.__dict__[_LOADING] = _Loading(loaded)
    return copied


def unloaded() -> AbstractContextManager[Any]:
    """Knowledge that is made in the block loads its sources when it is first queried.

    crewAI has a crew load them when it is made, which a run whose queries are recorded need not.
    """
    _patches.apply(_patches.CREW)
    return setting(_putting_off, True)


def putting_off(load: Callable[..., None]) -> Callable[..., None]:
    """`Knowledge.add_sources`, which only takes note where loading is put off."""

    @functools.wraps(load)
    def load_or_put_off(knowledge: Knowledge) -> None:
        if _putting_off.get():
            knowledge.__dict__[_PUT_OFF] = _Loading(done=False)
            return
        load(knowledge)

    return load_or_put_off


def loading_first(query: Callable[..., Any]) -> Callable[..., Any]:
    """`Knowledge.query`, which loads what was put off."""

    @functools.wraps(query)
    def query_loaded(knowledge: Knowledge, *args: Any, **kwargs: Any) -> Any:
        _load_if_put_off(knowledge)
        return query(knowledge, *args, **kwargs)

    return query_loaded


def aloading_first(aquery: Callable[..., Any]) -> Callable[..., Any]:
    """As `loading_first`, of `Knowledge.aquery`."""

    @functools.wraps(aquery)
    async def aquery_loaded(knowledge: Knowledge, *args: Any, **kwargs: Any) -> Any:
        await on_a_thread(lambda: _load_if_put_off(knowledge))
        return await aquery(knowledge, *args, **kwargs)

    return aquery_loaded


def _load_if_put_off(knowledge: Knowledge) -> None:
    loading: _Loading | None = knowledge.__dict__.get(_PUT_OFF)
    if loading is not None:
        add_sources: Any = Knowledge.add_sources
        loading.once(lambda: add_sources.__wrapped__(knowledge))


@dataclass
class _Loading:
    """Whether the sources of a knowledge, and of each copy of it, are in their storage."""

    done: bool
    lock: threading.Lock = field(default_factory=threading.Lock)

    def once(self, load: Callable[[], None]) -> None:
        """Load them if they are not there; who asks meanwhile waits. What fails is done again."""
        with self.lock:
            if not self.done:
                load()
                self.done = True


if TYPE_CHECKING:
    _Knowledge = Knowledge
else:
    _Knowledge = object


@overrides(Knowledge)
class _DurableKnowledge(_Knowledge):
    """Overrides of `Knowledge`. A run whose queries are all recorded does not load its sources."""

    def query(self, *args: Any, **kwargs: Any) -> Any:
        original = super().query
        scope = run_scope.for_call(self.__dict__[_SCOPE], "knowledge query")
        if scope is None:
            _load(self)
            return original(*args, **kwargs)

        def ask() -> Any:
            _load(self)
            return original(*args, **kwargs)

        call = Call(names.KNOWLEDGE_QUERY, kind="knowledge", request={"query": [args, kwargs]})
        return scope.run(call, ask)

    async def aquery(self, *args: Any, **kwargs: Any) -> Any:
        original = super().aquery
        scope = run_scope.for_call(self.__dict__[_SCOPE], "knowledge query")
        if scope is None:
            await on_a_thread(lambda: _load(self))
            return await original(*args, **kwargs)

        async def ask() -> Any:
            await on_a_thread(lambda: _load(self))
            return await original(*args, **kwargs)

        call = Call(names.KNOWLEDGE_QUERY, kind="knowledge", request={"query": [args, kwargs]})
        return await scope.arun(call, ask)


def _load(knowledge: _DurableKnowledge) -> None:
    loading: _Loading = knowledge.__dict__[_LOADING]
    loading.once(knowledge.add_sources)
