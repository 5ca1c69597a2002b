"""One recorded call, as it is found when a run is opened."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from crewai_dbos._dbos_seam.rows import RecordedRow
from crewai_dbos._journal import payload as payloads
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.payload import Payload
from crewai_dbos._stored import names
from crewai_dbos._stored.digest import digest, salted
from crewai_dbos.errors import JournalCorruptError

_NAME = re.compile(r"(?:(?P<path>.*)/)?(?P<what>[^/]+)#(?P<occurrence>\d{1,9})", re.DOTALL)


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

    @cached_property
    def _is_whole(self) -> bool:
        """Whether what was sealed is a payload; what was not has been looked at."""
        return self._content is self.stored or payloads.is_payload(self._content)

    def payload(self) -> Payload:
        """What was stored.

        Raises:
            JournalCorruptError: It is not an entry, or one of a newer version.
            SealedError: It is encrypted, and this process can't read it.
        """
        if not self.is_readable or not self._is_whole:
            raise JournalCorruptError(f"{self.name} is no entry of this version")
        return self._content

    def carries_out(self, work_order: str) -> bool:
        """Whether this is the entry of work that was asked for `work_order`, a digest."""
        if not self.is_readable:
            return False
        if self.version == 1:
            return bool(self.stored.get("result") == work_order[:8])
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
    found = split_name(row.name)
    if found is None or not (names.is_ours(row.name) or payloads.is_payload(row.output)):
        return None
    path, what, occurrence = found
    return Entry(
        name=row.name,
        path=path,
        what=what,
        occurrence=occurrence,
        step_id=row.step_id,
        stored=row.output,
    )
