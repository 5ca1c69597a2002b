"""In the process that is to die: the script answers its LLMs, wherever they were made to ask.

An LLM that is built when its module is imported has read its address by then. So requests in
OpenAI's protocol are sent to the script's server on their way out, and an LLM that speaks another
protocol is kept from asking a real model: somebody would pay for that.
"""

from __future__ import annotations

import sys
from typing import Any

import httpx

from crewai_dbos._journal.open_calls import open_call
from crewai_dbos._stored import names
from crewai_dbos.testing.crash.errors import CrashTestError

_ANSWERED = ("/chat/completions", "/embeddings")


class ScriptedModel:
    """The server of the script; none if the definition's own model is asked.

    Args:
        base_url: Its address, ending in /v1, or "".

    Attributes:
        refused: What an LLM wanted to ask that the script can't answer, in words; "" if none did.
    """

    def __init__(self, base_url: str) -> None:
        self._url = httpx.URL(base_url)
        self.refused = ""
        if base_url:
            sys.addaudithook(self._audit)

    def takes(self, request: httpx.Request) -> bool:
        """Whether `request` goes to the script, now that it does if the script can answer it."""
        if not self._url.host:
            return False
        for path in _ANSWERED:
            if request.url.path.endswith(path):
                request.url = self._url.copy_with(path=self._url.path + path)
                request.headers["host"] = request.url.netloc.decode()
                request.headers["authorization"] = "Bearer test"
                return True
        return bool(request.url.netloc == self._url.netloc)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("socket.connect", "socket.getaddrinfo"):
            return
        call = open_call()
        if call is None or not _is_of_llm(call.name):
            return
        host, port = arguments[1][:2] if event == "socket.connect" else arguments[:2]
        if (host, port) == (self._url.host, self._url.port):
            return
        self.refused = (
            f"{call.name} asks {host}, in a protocol that the script of model= can't answer: it "
            "speaks OpenAI's chat completions. Nothing was sent. Give the definition an LLM of "
            "OpenAI's for this test, or leave out model= and let it ask its own model."
        )
        raise CrashTestError(self.refused)


def _is_of_llm(entry: str) -> bool:
    """Whether the entry is a request of an LLM: of an agent, of a guardrail, of a memory ..."""
    what = entry.rpartition("/")[2].rpartition("#")[0]
    return ":" not in what and names.without_digest(what).endswith(names.LLM)
