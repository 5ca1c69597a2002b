"""One recorded call: how it is asked for, and how its record is found and read back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from crewai_dbos._dbos_seam import RecordedRow
from crewai_dbos._journal import payload as payloads
from crewai_dbos._journal.config import PLAIN, StepConfig
from crewai_dbos._journal.payload import Payload
from crewai_dbos._stored import codec, names
from crewai_dbos._stored.digest import digest, digests, salted
from crewai_dbos._stored.errors import decode_error
from crewai_dbos.errors import JournalCorruptError

_NAME = re.compile(r"(?:(?P<path>.*)/)?(?P<what>[^/]+)#(?P<occurrence>\d{1,9})", re.DOTALL)


@dataclass(frozen=True)
class Call:
    """A call that the journal is asked to make or to replay.

    Attributes:
        what: Its name within its scope, without the occurrence.
        kind: ``llm``, ``tool``, ``memory``, ...: what the entry is counted as.
        request: What is sent, by part (``messages``, ``tools``, ...). Only digests are stored.
        config: Retries and limits.
        concurrent: Whether it may run beside others of its scope; `what` then names its content.
        background: Whether it is before or after nothing, as the work goes on without waiting for
            it; it is concurrent then.
        known: Classes that may occur in the result without being importable.
        secrets: Texts that must not be stored in an error message.
        as_text: Turns a result that has no JSON form into one, or None if that is an error.
        collect: Says after the call what else to store (token usage, provider state).
        restore: Gets that back on replay; says how many tokens it stands for.
    """

    what: str
    kind: str
    request: Mapping[str, Any] = field(default_factory=dict)
    config: StepConfig = PLAIN
    concurrent: bool = False
    background: bool = False
    known: tuple[type, ...] = ()
    secrets: tuple[str, ...] = ()
    as_text: Callable[[Any], str] | None = None
    collect: Callable[[], Mapping[str, Any]] | None = None
    restore: Callable[[Mapping[str, Any]], int | None] | None = None

    digests: dict[str, str] = field(init=False)
    digests_before: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        # Now, because crewAI goes on with the same list of messages while the call is made.
        found = {part: digests(value) for part, value in self.request.items()}
        now, before = ({part: both[n] for part, both in found.items()} for n in (0, 1))
        object.__setattr__(self, "digests", now)
        object.__setattr__(self, "digests_before", before)
        object.__setattr__(self, "concurrent", self.concurrent or self.background)

    def named_by_content(self) -> str:
        before = digest(self.digests_before)[:8]
        return names.by_digests(self.what, digest(self.digests), before)

    def by_content(self) -> Call:
        """This call, told apart from others by what it asks and not by when it comes."""
        return replace(self, what=self.named_by_content(), background=True)

    def read(self, name: str, payload: Payload) -> Outcome:
        """The outcome in `payload`.

        Raises:
            JournalCorruptError: It does not decode.
        """
        try:
            if "error" in payload:
                return Outcome(error=decode_error(payload["error"]))
            return Outcome(value=codec.decode(payload["result"], self.known))
        except Exception as error:
            raise JournalCorruptError(f"{name} can't be read: {error}") from error


@dataclass(frozen=True)
class Outcome:
    value: Any = None
    error: Exception | None = None

    def get(self) -> Any:
        """The value, or the error raised."""
        if self.error is not None:
            raise self.error
        return self.value


@dataclass
class Entry:
    """A recorded call, as found when the run was opened."""

    name: str
    path: str
    what: str
    occurrence: int
    step_id: int
    stored: Any
    claimed: bool = False

    @property
    def version(self) -> int:
        return int(self.stored["v"]) if self.is_readable else names.ENTRY_VERSION

    @property
    def key_id(self) -> str | None:
        """The id of the key of digests in names; see `Record.key_id`."""
        found = self.stored.get("key")
        return found if isinstance(found, str) else None

    @property
    def kind(self) -> str:
        return str(self.stored["kind"]) if self.is_readable else ""

    @property
    def concurrent(self) -> bool:
        return self.is_readable and bool(self.stored.get("concurrent"))

    @property
    def background(self) -> bool:
        return self.is_readable and bool(self.stored.get("background"))

    @cached_property
    def last_id(self) -> int:
        """The last step id that this entry occupies or keeps free."""
        return self.step_id + (int(self.stored.get("ids", 0)) if self.is_readable else 0)

    @cached_property
    def is_readable(self) -> bool:
        return payloads.is_payload(self.stored)

    @cached_property
    def _content(self) -> Payload:
        return payloads.opened(self.stored)

    def payload(self) -> Payload:
        """What was stored.

        Raises:
            JournalCorruptError: It is not an entry, or one of a newer version.
        SealedError: It is encrypted, and this process can't read it.
        """
        if not self.is_readable or not payloads.is_payload(self._content):
            raise JournalCorruptError(f"{self.name} is no entry of this version")
        return self._content

    def carries_out(self, order: str) -> bool:
        """Whether this is the entry of a part that was asked for `order`, a digest."""
        if not self.is_readable:
            return False
        if self.version == 1:
            return bool(self.stored.get("result") == order[:8])
        return self._is_digest_of("order", digest(order))

    def changes(self, call: Call) -> list[str]:
        """The parts of the request that are not what was recorded."""
        if self.version == 1:
            recorded = self.payload().get("request", {})
            before = call.digests_before.items()
            return [part for part, digested in before if recorded.get(part) != digested]
        now = call.digests.items()
        return [part for part, digested in now if not self._is_digest_of(part, digested)]

    def _is_digest_of(self, part: str, digested: str) -> bool:
        payload = self.payload()
        recorded = payload.get("request", {}).get(part)
        return bool(recorded == salted(digested, payload.get("salt", "")))


def split_name(name: str) -> tuple[str, str, int] | None:
    """Path, what and occurrence of a numbered name; None if it is not one."""
    match = _NAME.fullmatch(name)
    return None if match is None else (match["path"] or "", match["what"], int(match["occurrence"]))


def read_entry(row: RecordedRow) -> Entry | None:
    """The entry in a step row of DBOS, or None for a row of somebody else."""
    parts = split_name(row.name)
    if parts is None or not (names.is_ours(row.name) or payloads.is_payload(row.output)):
        return None
    path, what, occurrence = parts
    return Entry(
        name=row.name,
        path=path,
        what=what,
        occurrence=occurrence,
        step_id=row.step_id,
        stored=row.output,
    )
