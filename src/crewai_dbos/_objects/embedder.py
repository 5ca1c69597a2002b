"""The embedder of a memory in a run: what it computes is recorded."""

from __future__ import annotations

import base64
from array import array
from typing import Any

from crewai_dbos._journal import run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.config import StepConfig
from crewai_dbos._journal.scope import Scope
from crewai_dbos._stored import names


class DurableEmbedder:
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
