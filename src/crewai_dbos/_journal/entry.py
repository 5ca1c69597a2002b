"""One recorded call, as it is found when a run is opened."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from crewai_dbos._dbos_seam.rows import RecordedRow
from crewai_dbos._journal import payload as payloads
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.head import Head, head_of
from crewai_dbos._journal.payload import Payload
from crewai_dbos._stored import names
from crewai_dbos._stored.digest import digest, salted
from crewai_dbos.errors import JournalCorruptError

_NAME = re.compile(r"(?:(?P<path>.*)/)?(?P<what>[^/]+)#(?P<occurrence>\d{1,9})", re.DOTALL)


class Source(Protocol):
    """Where the contents of entries are."""

    def stored(self, step_id: int) -> Any:
        """The JSON data of an entry."""

    def is_at_hand(self, step_id: int) -> bool:
        """Whether that can be had without asking the database."""


@dataclass(frozen=True)
class Given:
    """The content of an entry that has been read.

    Attributes:
        data: Its JSON data.
    """

    data: Any

    def stored(self, step_id: int) -> Any:
        return self.data

    def is_at_hand(self, step_id: int) -> bool:
        return True


@dataclass(slots=True)
class Entry:
    """A recorded call, as found when the run was opened.

    Its content is read when it is asked for, and then kept until it is let go.

    Attributes:
        head: What is known of it before; None of one that can't be read.
        source: Where its content is.
        claimed: Whether the code has asked for it.
        usage: What LLMs have told in it, once it was read.
    """

    name: str
    path: str
    what: str
    occurrence: int
    step_id: int
    head: Head | None
    source: Source
    claimed: bool = False
    usage: Sequence[Mapping[str, Any]] | None = None
    _content: Payload | None = None

    @property
    def version(self) -> int:
        return names.ENTRY_VERSION if self.head is None else self.head.version

    @property
    def key_id(self) -> str | None:
        """The id of the key of digests in names; see `Record.key_id`."""
        return None if self.head is None else self.head.key_id

    @property
    def kind(self) -> str:
        return "" if self.head is None else self.head.kind

    @property
    def concurrent(self) -> bool:
        return self.head is not None and self.head.concurrent

    @property
    def background(self) -> bool:
        return self.head is not None and self.head.background

    @property
    def last_id(self) -> int:
        """The last step id that this entry occupies or keeps free."""
        return self.step_id + (0 if self.head is None else self.head.ids)

    @property
    def is_readable(self) -> bool:
        """Whether it is an entry, as far as that is known before its content is read."""
        return self.head is not None

    @property
    def stored(self) -> Any:
        """The JSON data of its row, sealed or not."""
        return self.source.stored(self.step_id)

    @property
    def has_failed(self) -> bool:
        """Whether it ended with an error; a call that was edited since did not."""
        stored = self.stored if self.is_readable else {}
        return "error" in stored or bool(stored.get("failed"))

    @property
    def is_at_hand(self) -> bool:
        """Whether `payload` answers without asking the database."""
        return self._content is not None or self.source.is_at_hand(self.step_id)

    def payload(self) -> Payload:
        """What was stored.

        Raises:
            JournalCorruptError: It is not an entry, or one of a newer version.
            SealedError: It is encrypted, and this process can't read it.
        """
        content = self._content
        if content is None:
            content = self._content = self._read()
            self.usage = content.get("extra", {}).get("usage", ())
        return content

    def let_go(self) -> None:
        """Its content will not be asked for again, most probably."""
        self._content = None

    def _read(self) -> Payload:
        stored: Any = self.stored if self.is_readable else None
        if payloads.is_payload(stored):
            content = payloads.opened(stored)
            if content is stored or payloads.is_payload(content):
                return content
        raise JournalCorruptError(f"{self.name} is no entry of this version")

    def carries_out(self, work_order: str) -> bool:
        """Whether this is the entry of work that was asked for `work_order`, a digest."""
        if not self.is_readable:
            return False
        if self.version == 1:
            return bool(self.payload().get("result") == work_order[:8])
        return self._is_digest_of("order", digest(work_order))

    def changes(self, call: Call) -> list[str]:
        """The components of the request that are not what was recorded."""
        if self.version == 1:
            recorded = self.payload().get("request", {})
            before = call.digests_before.items()
            return [name for name, digested in before if recorded.get(name) != digested]
        now = call.digests.items()
        return [name for name, digested in now if not self._is_digest_of(name, digested)]

    def _is_digest_of(self, component: str, digested: str) -> bool:
        payload = self.payload()
        recorded = payload.get("request", {}).get(component)
        return bool(recorded == salted(digested, payload.get("salt", "")))


def split_name(name: str) -> tuple[str, str, int] | None:
    """Path, what and occurrence of a numbered name; None if it is not one."""
    match = _NAME.fullmatch(name)
    return None if match is None else (match["path"] or "", match["what"], int(match["occurrence"]))


def read_entry(row: RecordedRow) -> Entry | None:
    """The entry in a step row of DBOS, or None for a row of somebody else."""
    return entry_of(row.step_id, row.name, head_of(row.output), Given(row.output))


def entry_of(step_id: int, name: str, head: Head | None, source: Source) -> Entry | None:
    """The entry in the step called `name`, or None for one of somebody else.

    Args:
        step_id: Its number.
        name: What it is called.
        head: That of its content, if it has one.
        source: Where that is.
    """
    found = split_name(name)
    if found is None or not (names.is_ours(name) or head is not None):
        return None
    return Entry(name, *found, step_id, head, source)
