"""Which place of a run is meant: its whole name, or as much of it as tells it from the others."""

from __future__ import annotations

import re
from difflib import get_close_matches

from crewai_dbos._command_lines import FAILURE
from crewai_dbos._control.recorded import Recorded
from crewai_dbos._journal.entry import Entry
from crewai_dbos._stored import names
from crewai_dbos.errors import ForkError

_SHOWN = 8


def found(recorded: Recorded, place: str) -> str:
    """The name of the entry or place that `place` stands for.

    ``task:2`` and ``task:write`` are the second task, called ``write``. ``method:draft`` is the
    last time that it was executed, ``method:draft#1`` the first. ``agent:Writer/llm#3`` is any
    ending of a name, and ``task:2/llm#3`` one with places left out. ``failure`` is what failed.

    Raises:
        ForkError: It stands for none, or for several.
    """
    if place == FAILURE:
        return _failed(recorded)
    every = recorded.names()
    if place in every:
        return place
    wanted = [part for part in place.split("/") if part]
    parts = {name: name.split("/") for name in every if wanted}
    matching = [name for name in parts if _ends_with(parts[name], wanted)]
    if not matching:
        matching = [name for name in parts if _leads_over(parts[name], wanted)]
    if len({_without_number(name) for name in matching}) == 1 and _is_method(matching[0]):
        return max(matching, key=_number)
    if len(matching) == 1:
        return matching[0]
    run = f"Run {recorded.run_id!r}"
    if matching:
        shown = sorted(matching, key=lambda name: recorded.item(name).first)
        raise ForkError(f"{run} has {place!r} more than once: {_listed(shown)}. Which?")
    if not every:
        raise ForkError(f"{run} has recorded nothing yet, so there is no {place!r} in it.")
    raise ForkError(
        f"{run} has recorded no {place!r}. The nearest: {_listed(_near(every, place))}."
    )


def _failed(recorded: Recorded) -> str:
    """The call that the run has failed at, or the method whose own code failed.

    A call that failed, and that more was done after in the same place, was lived with.
    """
    failed = [e for e in recorded.entries if e.has_failed and not _is_lived_with(recorded, e)]
    for entry in reversed(failed):
        if entry.what == names.METHOD_END:
            inside = recorded.item(entry.path).entries
            last = max((e for e in inside if not e.background), key=_step_id, default=entry)
            return last.name if last.has_failed else entry.path
        if entry.what in (names.END, names.ABANDONED):
            continue
        beside = (e for item in recorded.at(entry.path) for e in item.entries if not e.background)
        if max(beside, key=_step_id, default=entry).step_id <= entry.last_id:
            return entry.name
    raise ForkError(
        f"Run {recorded.run_id!r} has recorded no call or method that it failed at. Name the place "
        "to go on from; crewai-dbos runs show says what there is."
    )


def _is_lived_with(recorded: Recorded, entry: Entry) -> bool:
    """Whether a method that it was in has ended well."""
    path = entry.path
    while path:
        end = recorded.by_name.get(names.numbered(path, names.METHOD_END, 1))
        if end is not None and end is not entry and not end.has_failed:
            return True
        path = path.rpartition("/")[0]
    return False


def _step_id(entry: Entry) -> int:
    return entry.step_id


def _ends_with(parts: list[str], wanted: list[str]) -> bool:
    ending = parts[-len(wanted) :]
    return len(ending) == len(wanted) and all(map(_is_meant, ending, wanted))


def _leads_over(parts: list[str], wanted: list[str]) -> bool:
    """Whether the way to a place leads over these, with others in between."""
    left = iter(parts[:-1])
    *above, last = wanted
    return _is_meant(parts[-1], last) and all(any(_is_meant(p, w) for p in left) for w in above)


def _is_meant(part: str, wanted: str) -> bool:
    what, _, number = part.rpartition("#")
    named, mark, occurrence = wanted.rpartition("#")
    if not mark or not occurrence.isdigit():
        named, occurrence = wanted, number
    if occurrence != number:
        return False
    kind, _, name = named.partition(":")
    written = {named, f"{kind}:{names.escaped(name)}"}
    return not written.isdisjoint({what, names.without_digest(what), *_of_task(what)})


def _of_task(what: str) -> set[str]:
    task = re.fullmatch(r"task:(\d+)(?:\.(.*))?", what, re.DOTALL)
    if task is None:
        return set()
    return {f"task:{task[1]}"} | ({f"task:{task[2]}"} if task[2] else set())


def _is_method(name: str) -> bool:
    return name.rpartition("/")[2].startswith("method:")


def _without_number(name: str) -> str:
    return name.rpartition("#")[0]


def _number(name: str) -> int:
    return int(name.rpartition("#")[2])


def _near(every: list[str], place: str) -> list[str]:
    depth = len(place.split("/"))
    endings = {"/".join(name.split("/")[-depth:]): name for name in every}
    short = {_brief(ending): ending for ending in endings}
    close = get_close_matches(place, short, n=_SHOWN, cutoff=0.5)
    if close:
        return [short[each] for each in close]
    kind = place.rpartition("/")[2].partition(":")[0]
    alike = [ending for ending in endings if ending.rpartition("/")[2].startswith(f"{kind}:")]
    places = [e for e in endings if re.match(r"(task|method|agent|crew|flow):", e)]
    return alike or places or list(endings)


def _brief(ending: str) -> str:
    """As somebody would write it: tasks by name, nothing numbered that came once."""
    what = names.without_digest(re.sub(r"#1$", "", ending))
    return re.sub(r"task:\d+\.", "task:", what)


def _listed(found: list[str]) -> str:
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more
