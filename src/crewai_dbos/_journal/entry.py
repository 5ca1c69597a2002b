"""One recorded call: how it is asked for, what is stored of it, how it is read back."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

from dbos import StepInfo

from crewai_dbos._errors import JournalCorruptError, UnstorableValueError
from crewai_dbos._journal.config import PLAIN, StepConfig
from crewai_dbos._secrets import known
from crewai_dbos._stored import codec, names
from crewai_dbos._stored.digest import digest
from crewai_dbos._stored.errors import decode_error, encode_error

logger = logging.getLogger("crewai_dbos")

_NAME = re.compile(r"(?:(?P<path>.*)/)?(?P<what>[^/]+)#(?P<occurrence>\d+)", re.DOTALL)

Payload = dict[str, Any]


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

    def __post_init__(self) -> None:
        # Now, because crewAI goes on with the same list of messages while the call is made.
        digests = {part: digest(value) for part, value in self.request.items()}
        object.__setattr__(self, "digests", digests)
        object.__setattr__(self, "concurrent", self.concurrent or self.background)

    def named_by_content(self) -> str:
        return f"{self.what}({digest(self.digests)})"

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
    def kind(self) -> str:
        return str(self.payload()["kind"])

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
        return _is_payload(self.stored)

    def payload(self) -> Payload:
        """What was stored.

        Raises:
            JournalCorruptError: It is not an entry, or one of a newer version.
        """
        if not self.is_readable:
            raise JournalCorruptError(f"{self.name} is no entry of this version")
        return cast(Payload, self.stored)

    def changes(self, call: Call) -> list[str]:
        """The parts of the request that are not what was recorded."""
        recorded = self.payload().get("request", {})
        return [part for part, digest in call.digests.items() if recorded.get(part) != digest]


def split_name(name: str) -> tuple[str, str, int] | None:
    """Path, what and occurrence of a numbered name; None if it is not one."""
    match = _NAME.fullmatch(name)
    return None if match is None else (match["path"] or "", match["what"], int(match["occurrence"]))


def read_entry(row: StepInfo) -> Entry | None:
    """The entry in a step row of DBOS, or None for a row of somebody else."""
    parts = split_name(row["function_name"])
    ours = names.is_ours(row["function_name"]) or _is_payload(row["output"])
    if parts is None or not ours:
        return None
    path, what, occurrence = parts
    return Entry(
        name=row["function_name"],
        path=path,
        what=what,
        occurrence=occurrence,
        step_id=row["function_id"],
        stored=row["output"],
    )


def _is_payload(stored: Any) -> bool:
    if not isinstance(stored, dict) or stored.get("v") != names.ENTRY_VERSION:
        return False
    fields = {"kind": str, "request": dict, "ids": int, "error": dict, "extra": dict}
    given = {name: cls for name, cls in fields.items() if name in stored or name == "kind"}
    well_formed = all(isinstance(stored.get(name), cls) for name, cls in given.items())
    return well_formed and ("result" in stored) != ("error" in stored)


def success(call: Call, value: Any, *, seconds: float = 0.0) -> Payload:
    """The payload of a call that returned `value`; of a failed one if that can't be stored."""
    try:
        head = _head(call, seconds)
    except (UnstorableValueError, RecursionError) as error:
        return failure(replace(call, collect=None), error, seconds=seconds)
    try:
        result = codec.encode(value, call.known)
    except (UnstorableValueError, RecursionError) as error:
        if call.as_text is None:
            return failure(call, error, seconds=seconds)
        logger.warning(
            "%s returned %s, which has no JSON form. It is recorded as the text that the model "
            "sees. Return plain data or a pydantic model to keep the value.",
            call.what,
            type(value).__qualname__,
        )
        result = codec.encode(call.as_text(value))
    return {**head, "result": result}


def failure(
    call: Call, error: BaseException, *, seconds: float = 0.0, secrets: Iterable[str] = ()
) -> Payload:
    """The payload of a call that raised `error`; `secrets`, and the call's own, are cut out."""
    hidden = {*call.secrets, *secrets, *known.named()}
    return {**_head(call, seconds), "error": encode_error(error, hidden)}


def pin(call: Call, ids: int) -> Payload:
    """The payload that keeps the `ids` step ids after its own for an operation of DBOS."""
    return {**_head(call, 0.0), "result": None, "ids": ids}


def _head(call: Call, seconds: float) -> Payload:
    head: Payload = {"v": names.ENTRY_VERSION, "kind": call.kind}
    if call.concurrent:
        head["concurrent"] = True
    if call.background:
        head["background"] = True
    if seconds:
        head["seconds"] = round(seconds, 4)
    if call.digests:
        head["request"] = call.digests
    if call.collect is not None and (extra := call.collect()):
        head["extra"] = codec.encode(dict(extra), call.known)
    return head
