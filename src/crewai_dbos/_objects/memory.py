"""Memory and knowledge in a run: each access is recorded, and the LLM and embedder calls inside.

What memory recalls carries a score that changes with the clock, so a replay must not ask again.
"""

from __future__ import annotations

import base64
import copy
import functools
import threading
from array import array
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crewai.knowledge.knowledge import Knowledge
from crewai.llms.base_llm import BaseLLM
from crewai.memory.memory_scope import MemoryScope, MemorySlice
from crewai.memory.unified_memory import Memory

from crewai_dbos import _patches
from crewai_dbos._classes import durable_class, overrides, with_its_own
from crewai_dbos._crewai_seam.agent import (
    forget_saves,
    memory_behind,
    memory_llm,
    put_behind,
    set_memory_llm,
)
from crewai_dbos._journal import background, run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.config import StepConfig, for_llm
from crewai_dbos._journal.scope import Scope
from crewai_dbos._secrets import known
from crewai_dbos._setting import setting
from crewai_dbos._stored import names
from crewai_dbos._threads import on_a_thread

_RUN = "_crewai_dbos_run"
_LOADING = "_crewai_dbos_loading"
_PUT_OFF = "_crewai_dbos_put_off"

_putting_off: ContextVar[bool] = ContextVar("crewai_dbos_putting_off", default=False)


def durable_memory(
    memory: Any,
    scope: Scope,
    durable: Callable[[BaseLLM], BaseLLM],
    embedding: StepConfig | None,
) -> Any:
    """A view of `memory` for one run, on the same storage.

    Args:
        memory: A `Memory`, `MemoryScope` or `MemorySlice`.
        scope: The run.
        durable: Makes the LLM that the memory asks one whose requests are recorded.
        embedding: Retries of its embedder's calls.
    """
    if not issubclass(type(memory), (Memory, MemoryScope, MemorySlice)):
        return _as_it_is("memory", memory)
    view = copy.copy(memory)
    object.__setattr__(view, "__pydantic_private__", dict(memory.__pydantic_private__ or {}))
    if isinstance(memory, (MemoryScope, MemorySlice)):
        put_behind(view, durable_memory(memory_behind(memory), scope, durable, embedding))
        return view
    if isinstance(memory, Memory):
        view.__class__ = durable_class(_DurableMemory, with_its_own(view, _DurableMemory))
        view.__dict__[_RUN] = (scope, durable, embedding)
        forget_saves(view)
        llm = memory_llm(view)
        if llm is not None:
            # Now, because a replay that asks nothing counts its tokens as well.
            set_memory_llm(view, durable(llm))
    return view


def drain(memory: Any) -> None:
    """Wait for what `memory` still saves in the background."""
    inner = memory_behind(memory)
    if isinstance(inner, Memory):
        inner.drain_writes()


def _as_it_is(what: str, stand_in: Any) -> Any:
    run_scope.warn_once(
        f"The {what} {known.shown(stand_in)} is none of crewAI's, so what it is asked is not "
        "recorded: it is asked again on recovery."
    )
    return stand_in


def durable_knowledge(knowledge: Any, scope: Scope, *, loaded: bool = True) -> Any:
    """A copy of `knowledge`, a `Knowledge`, for one run whose queries are recorded.

    Args:
        loaded: Whether its sources are in its storage already.
    """
    if not issubclass(type(knowledge), Knowledge):
        return _as_it_is("knowledge", knowledge)
    copied = copy.copy(knowledge)
    copied.__class__ = durable_class(_DurableKnowledge, with_its_own(copied, _DurableKnowledge))
    copied.__dict__[_RUN] = (scope,)
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
            knowledge.__dict__[_PUT_OFF] = True
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
    if knowledge.__dict__.pop(_PUT_OFF, False):
        put_off: Any = Knowledge.add_sources
        put_off.__wrapped__(knowledge)


def waited_for(submit: Callable[..., Any]) -> Callable[..., Any]:
    """`Memory._submit_save`: whoever records the end of what has begun a save waits for it."""

    @functools.wraps(submit)
    def submit_and_tell(memory: Memory, *args: Any, **kwargs: Any) -> Any:
        saving = submit(memory, *args, **kwargs)
        background.begun(saving)
        return saving

    return submit_and_tell


if TYPE_CHECKING:
    _Memory = Memory
else:
    _Memory = object


@overrides(Memory)
class _DurableMemory(_Memory):
    """Overrides of `Memory`; its background saves run in the save pool as before."""

    @property
    def _llm(self) -> Any:
        _, durable, _ = self.__dict__[_RUN]
        llm = durable(super()._llm)
        set_memory_llm(self, llm)
        return llm

    @property
    def _embedder(self) -> Any:
        scope, _, config = self.__dict__[_RUN]
        return _DurableEmbedder(super()._embedder, scope, for_llm(config))

    def recall(self, query: str, *args: Any, **kwargs: Any) -> Any:
        original = super().recall
        # Reading has to wait for the saves before it, on replay as well.
        self.drain_writes()
        call = Call(names.MEMORY_RECALL, kind="memory", request={"query": [query, args, kwargs]})
        return _recorded_group(self, call, lambda: original(query, *args, **kwargs))

    def forget(self, *args: Any, **kwargs: Any) -> int:
        return int(_accessed(self, names.MEMORY_FORGET, super().forget, args, kwargs))

    def update(self, *args: Any, **kwargs: Any) -> Any:
        return _accessed(self, names.MEMORY_UPDATE, super().update, args, kwargs)

    def reset(self, *args: Any, **kwargs: Any) -> None:
        _accessed(self, names.MEMORY_RESET, super().reset, args, kwargs)

    def reset_all(self) -> None:
        _accessed(self, names.MEMORY_RESET_ALL, super().reset_all, (), {})

    def list_records(self, *args: Any, **kwargs: Any) -> Any:
        return _accessed(self, names.MEMORY_LIST, super().list_records, args, kwargs)

    def list_scopes(self, *args: Any, **kwargs: Any) -> Any:
        return _accessed(self, names.MEMORY_SCOPES, super().list_scopes, args, kwargs)

    def list_categories(self, *args: Any, **kwargs: Any) -> Any:
        return _accessed(self, names.MEMORY_CATEGORIES, super().list_categories, args, kwargs)

    def info(self, *args: Any, **kwargs: Any) -> Any:
        return _accessed(self, names.MEMORY_INFO, super().info, args, kwargs)

    def tree(self, *args: Any, **kwargs: Any) -> Any:
        return _accessed(self, names.MEMORY_TREE, super().tree, args, kwargs)

    def _submit_save(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        what = names.by_content(names.MEMORY_SAVE, [args, kwargs])
        call = Call(what, kind="memory", background=True)

        def save() -> Any:
            return _recorded_group(self, call, lambda: fn(*args, **kwargs))

        return super()._submit_save(save)


@dataclass
class _Loading:
    """Whether the sources of a knowledge are in its storage."""

    done: bool
    lock: threading.Lock = field(default_factory=threading.Lock)


if TYPE_CHECKING:
    _Knowledge = Knowledge
else:
    _Knowledge = object


@overrides(Knowledge)
class _DurableKnowledge(_Knowledge):
    """Overrides of `Knowledge`. A run whose queries are all recorded does not load its sources."""

    def query(self, *args: Any, **kwargs: Any) -> Any:
        original = super().query
        scope = run_scope.for_call(self.__dict__[_RUN][0], "knowledge query")
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
        scope = run_scope.for_call(self.__dict__[_RUN][0], "knowledge query")
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
    with loading.lock:
        if not loading.done:
            knowledge.add_sources()
            loading.done = True


class _DurableEmbedder:
    """Embeds through the journal; any other attribute is the embedder's own."""

    def __init__(self, embedder: Any, bound: Scope, config: StepConfig) -> None:
        self._embedder = embedder
        self._bound = bound
        self._config = config

    def __call__(self, texts: list[str], *args: Any, **kwargs: Any) -> list[list[float]]:
        scope = run_scope.for_call(self._bound, "embedding")
        if scope is None:
            return list(self._embedder(texts, *args, **kwargs))
        call = Call(
            names.by_content("embedding", list(texts)),
            kind="embedding",
            config=self._config,
            concurrent=True,
        )
        packed = scope.run(call, lambda: [_pack(v) for v in self._embedder(texts, *args, **kwargs)])
        return [_unpack(text) for text in packed]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)


def _pack(vector: Any) -> str:
    return base64.b64encode(array("d", [float(x) for x in vector]).tobytes()).decode("ascii")


def _unpack(text: str) -> list[float]:
    vector = array("d")
    vector.frombytes(base64.b64decode(text))
    return vector.tolist()


def _accessed(memory: Any, what: str, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What `method` of `memory` returns, and does to what is stored, once."""
    # Which saves it finds must not be up to who is faster.
    memory.drain_writes()
    # In runs that an earlier release began it comes between others, unrecorded.
    call = Call(names.by_content(what, [args, kwargs]), kind="memory", background=True)
    return _recorded_group(memory, call, lambda: method(*args, **kwargs))


def _recorded_group(owner: Any, call: Call, function: Callable[[], Any]) -> Any:
    scope = run_scope.for_call(owner.__dict__[_RUN][0], call.what)
    if scope is None:
        return function()
    return scope.group(call, function)
