"""A call that the journal is asked for: what it is called, and how it is made and read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from crewai_dbos._journal.config import PLAIN, StepConfig
from crewai_dbos._stored import codec, names
from crewai_dbos._stored.digest import digest, digests
from crewai_dbos._stored.errors import decode_error
from crewai_dbos.errors import JournalCorruptError


@dataclass(frozen=True)
class Call:
    """A call that the journal is asked to make or to replay.

    Attributes:
        what: Its name within its scope, without the occurrence.
        kind: ``llm``, ``tool``, ``memory``, ...: what the entry is counted as.
        request: What is sent, by component (``messages``, ``tools``, ...). Only digests are stored.
        config: Retries and limits.
        concurrent: Whether it may run beside others of its scope; `what` then names its content.
        background: Whether it is before or after nothing, as the work goes on without waiting for
            it; it is concurrent then.
        known: Classes that may occur in the result without being importable.
        secrets: Texts that must not be stored in an error message.
        as_data: Makes of a result that has no JSON form what can be told of it, given `known` too.
        as_text: Turns a result that has no JSON form into one, or None if that is an error.
        collect: Says after the call what else to store (token usage, provider state).
        restore: Gets that back on replay; says how many tokens it stands for.
        model: The LLM that is asked. It is stored in the clear: what the call costs is up to it.
        gate: Is asked, by the name of the call, whether it may be made; if not yet, says what to
            wait for before it is asked again. It is not asked about what is recorded.
    """

    what: str
    kind: str
    request: Mapping[str, Any] = field(default_factory=dict)
    config: StepConfig = PLAIN
    concurrent: bool = False
    background: bool = False
    known: tuple[type, ...] = ()
    secrets: tuple[str, ...] = ()
    as_data: Callable[[Any, tuple[type, ...]], Any] | None = None
    as_text: Callable[[Any], str] | None = None
    collect: Callable[[], Mapping[str, Any]] | None = None
    restore: Callable[[Mapping[str, Any]], int | None] | None = None
    model: str | None = None
    gate: Callable[[str], Future[None] | None] | None = None

    digests: dict[str, str] = field(init=False)
    digests_before: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        # Now, because crewAI goes on with the same list of messages while the call is made.
        now, before = {}, {}
        for name, value in self.request.items():
            now[name], before[name] = digests(value)
        object.__setattr__(self, "digests", now)
        object.__setattr__(self, "digests_before", before)
        object.__setattr__(self, "concurrent", self.concurrent or self.background)

    def named_by_content(self) -> str:
        before = digest(self.digests_before)[:8]
        return names.by_digests(self.what, digest(self.digests), before)

    def by_content(self) -> Call:
        """This call, named by what it asks and not by when it comes."""
        return replace(self, what=self.named_by_content(), background=True)

    def read(self, name: str, payload: Mapping[str, Any]) -> Result:
        """The result in `payload`.

        Raises:
            JournalCorruptError: It does not decode.
        """
        try:
            if "error" in payload:
                return Result(error=decode_error(payload["error"]))
            return Result(value=codec.decode(payload["result"], self.known))
        except Exception as error:
            raise JournalCorruptError(f"{name} can't be read: {error}") from error


@dataclass(frozen=True)
class Result:
    """How a call ended.

    Attributes:
        value: What it returned.
        error: What it raised, if it did.
    """

    value: Any = None
    error: Exception | None = None

    def get(self) -> Any:
        """The value, or the error raised."""
        if self.error is not None:
            raise self.error
        return self.value
