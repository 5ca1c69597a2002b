"""Where an error was raised: its traceback with little of ours in it, and as plain data."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

E = TypeVar("E", bound=BaseException)

Place = tuple[str, int, str]
"""A file, a line in it, and the function that it is in."""

MOST_PLACES = 10

_OURS = ("crewai_dbos", "dbos")
_OF_THE_ENGINE = (*_OURS, "crewai")
_BETWEEN = ("asyncio", "concurrent", "contextlib", "threading")
"""Packages of Python's own that call one function of ours for another."""

_RAISED = "__crewai_dbos_raised__"


def shortened(error: E) -> E:
    """`error` without the frames of this package and of DBOS that it and its causes came through.

    Those in which an error that is not ours was raised stay: they say what is wrong with us.
    """
    for each in _with_causes(error):
        _with(each, _joined(_kept(each)))
    return error


def told(error: BaseException) -> str:
    """The traceback of `error` in text, without most of crewAI's frames too.

    What is left of it, of each of its causes and of what it is a group of are the user's frames,
    and those in which it was raised. `error` stays as it is: other threads may raise or read it.
    """
    whole = traceback.TracebackException.from_exception(error, lookup_lines=False)
    left: list[tuple[traceback.TracebackException | None, BaseException | None]] = [(whole, error)]
    while left:
        text, its = left.pop()
        if text is None or its is None:
            continue
        text.stack = _of(text.stack, its)
        left += [(text.__cause__, its.__cause__), (text.__context__, its.__context__)]
        if of_group := getattr(text, "exceptions", None):  # Python 3.10 has none
            inner: Any = its
            left += zip(of_group, inner.exceptions, strict=False)
    return "".join(whole.format()).rstrip("\n")


def _of(stack: traceback.StackSummary, error: BaseException) -> traceback.StackSummary:
    """What is told of the traceback of `error`."""
    entries = list(_entries(error.__traceback__))
    if len(entries) != len(stack):
        return stack  # there is a sys.tracebacklimit
    few = {id(each) for each in _few(_kept(error))}
    shown = [each for each, entry in zip(stack, entries, strict=True) if id(entry) in few]
    return traceback.StackSummary.from_list(shown)


def carried(copy: E, original: BaseException) -> E:
    """`copy` of `original`, with the traceback of that; so do its causes.

    What was raised ``from None`` shows nothing before it, whatever is being handled then.
    """
    last: BaseException | None = copy
    while last is not None:
        _with(last, original.__traceback__)
        if last.__cause__ is None:
            suppress = BaseException.__dict__["__suppress_context__"]
            suppress.__set__(last, original.__suppress_context__)
        last, original = last.__cause__, cause_of(original) or original
    return copy


def cause_of(error: BaseException) -> BaseException | None:
    """What a traceback shows before `error`, if anything."""
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def places(error: BaseException) -> list[Place]:
    """Where `error` was raised first: the functions that it came through, the last one last."""
    known: Any = _attributes(error).get(_RAISED)
    if known is not None:
        return list(known)
    kept = _without(_OF_THE_ENGINE, list(_entries(error.__traceback__)))
    found = [
        (each.tb_frame.f_code.co_filename, _line_of(each), each.tb_frame.f_code.co_name)
        for each in kept or _kept(error)[-1:]
    ]
    half = MOST_PLACES // 2
    return found if len(found) <= MOST_PLACES else found[:half] + found[-half:]


def _line_of(traceback: TracebackType) -> int:
    """Of code that says no line: 0, where Python says None, or -1 in some releases."""
    return max(traceback.tb_lineno or 0, 0)


def remember(error: BaseException, found: list[Place]) -> None:
    """Keep with `error`, which is rebuilt from a record, where it was raised first."""
    if found:
        _attributes(error)[_RAISED] = found


def tell(error: E) -> E:
    """`error`, which is raised from a record, with a note of where it was raised first."""
    found = note_of(error)
    if found is not None and found not in notes(error):
        _attributes(error)["__notes__"] = [*notes(error), found]
    return error


def note_of(error: BaseException) -> str | None:
    """The note that `tell` adds."""
    found: list[Place] = _attributes(error).get(_RAISED) or []
    if not found:
        return None
    lines = [f'  File "{file}", line {line}, in {function}' for file, line, function in found]
    return "\n".join(["It is answered from the record. It was raised first at:", *lines])


def notes(error: BaseException) -> list[str]:
    """The notes that `error` has."""
    found = _attributes(error).get("__notes__")
    return [each for each in found if type(each) is str] if type(found) is list else []


def _kept(error: BaseException) -> list[TracebackType]:
    """The entries of the traceback of `error` without those of ours."""
    entries = list(_entries(error.__traceback__))
    is_told = _RAISED in _attributes(error) or type(error).__module__.split(".")[0] in _OURS
    last = [] if is_told else _last_of_ours(entries)
    return _without(_OURS, entries) + last


def _with_causes(error: BaseException) -> list[BaseException]:
    """`error` and what its traceback shows before it."""
    found: list[BaseException] = []
    shown: BaseException | None = error
    while shown is not None and not any(shown is each for each in found):
        found.append(shown)
        shown = cause_of(shown)
    return found


def _joined(entries: list[TracebackType]) -> TracebackType | None:
    found: TracebackType | None = None
    for each in reversed(entries):
        found = TracebackType(found, each.tb_frame, each.tb_lasti, _line_of(each))
    return found


def _few(kept: list[TracebackType]) -> list[TracebackType]:
    """Of `kept` those that are not crewAI's, and the last ones; of many the first and the last."""
    half = MOST_PLACES // 2
    chosen = {id(each) for each in (*_without(_OF_THE_ENGINE, kept), *kept[-half:])}
    few = [each for each in kept if id(each) in chosen]
    return few if len(few) <= MOST_PLACES else few[:half] + few[-half:]


def _without(packages: tuple[str, ...], entries: list[TracebackType]) -> list[TracebackType]:
    """`entries` but for those of `packages`, and of what one of them called another through."""
    kept: list[TracebackType] = []
    between: list[TracebackType] = []
    follows = False
    for each in entries:
        package = _package(each.tb_frame)
        if package in packages:
            follows, between = True, []
        elif follows and package in _BETWEEN:
            between.append(each)
        else:
            kept += [*between, each]
            follows, between = False, []
    return kept + between


def _last_of_ours(entries: list[TracebackType]) -> list[TracebackType]:
    """The entries of ours at the end of a traceback."""
    last: list[TracebackType] = []
    for each in reversed(entries):
        if _package(each.tb_frame) not in _OURS:
            break
        last.insert(0, each)
    return last


def _entries(found: TracebackType | None) -> Iterator[TracebackType]:
    while found is not None:
        yield found
        found = found.tb_next


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _with(error: E, found: TracebackType | None) -> E:
    BaseException.with_traceback(error, found)
    return error


def _attributes(error: BaseException) -> dict[str, Any]:
    # Not by vars(): a class may answer that by itself.
    found: dict[str, Any] = BaseException.__dict__["__dict__"].__get__(error)
    return found
