"""Memory in a run: each access is recorded, and the LLM and embedder calls inside.

What memory recalls carries a score that changes with the clock, so a replay must not ask again.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from crewai.llms.base_llm import BaseLLM
from crewai.memory.memory_scope import MemoryScope, MemorySlice
from crewai.memory.unified_memory import Memory

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
from crewai_dbos._objects.embedder import DurableEmbedder
from crewai_dbos._objects.stand_ins import as_it_is
from crewai_dbos._stored import names

_RUN = "_crewai_dbos_run"


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
        return as_it_is("memory", memory)
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
        return DurableEmbedder(super()._embedder, scope, for_llm(config))

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
