"""What of a run depends on a place in it, as far as its record says.

The code is not here, so in doubt something does depend: it is made again, which costs a call. Were
it kept, the fork would find a record that does not fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from crewai_dbos._control.order_of_work import Triggers, tasks_after, texts
from crewai_dbos._control.recorded import Item, Recorded, what_of
from crewai_dbos._journal.entry import Entry
from crewai_dbos._stored import names
from crewai_dbos.errors import ForkError

_ENDS_OF_METHODS = (names.METHOD_END, names.FEEDBACK)
_ENDS = (names.END, names.ABANDONED, *_ENDS_OF_METHODS)


class Dependents:
    """The entries of a run that a fork of it does not keep.

    Args:
        recorded: The run.

    Attributes:
        entries: Their names.
        steps: The ids of steps of the user's own that come after them.
    """

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self.entries: set[str] = set()
        self.steps: set[int] = set()

    def drop(self, name: str) -> None:
        """The entry or place of this name, and what depends on it."""
        item = self._recorded.item(name)
        self._leave_out(item.entries)
        self.drop_after(name)

    def drop_after(self, name: str) -> None:
        """What depends on the entry or place of this name, which itself is kept."""
        item = self._recorded.item(name)
        if item.entry is not None:
            made = item.entry.step_id
            self._leave_out(entry for entry in item.entries if entry.step_id > made)
        self._after(name, item.first if item.entry is None else item.entry.step_id)

    def drop_inside(self, name: str) -> None:
        """All that is recorded in a place."""
        self._leave_out(self._recorded.item(name).entries)

    def _after(self, name: str, begin: int) -> None:
        """What depends on `name`, in the place that it is in and in those around that one.

        Args:
            begin: The step id from which on something else may happen.
        """
        path = name.rpartition("/")[0]
        own = self._recorded.item(name)
        kept = self._holding(path, own)
        siblings = [item for item in self._recorded.at(path) if item not in (own, *kept)]
        place = path.rpartition("/")[2]
        if place.startswith("crew:") and own.last_part.startswith("task:"):
            self._after_task(path, own, siblings)
        elif place.startswith("flow:") and own.last_part.startswith("method:"):
            self._after_method(path, own, siblings)
        else:
            self._after_call(own, siblings, begin)
        if not path:
            self._steps_after(own)
            return
        around = self._recorded.item(path)
        ends = [e for e in around.entries if e.path == path and e.what in _ENDS]
        self._leave_out(e for e in ends if e.step_id > begin)
        if around.entry is not None and around.entry.step_id > begin:
            self._leave_out([around.entry])  # its result was made of what is inside
        self._after(path, begin)

    def _holding(self, path: str, own: Item) -> list[Item]:
        """What the work at `path` is made of, as a fork has noted it: it holds for what is kept."""
        made_of = [i for i in self._recorded.at(path) if what_of(i.name) == names.DEFINITION]
        return made_of if made_of and made_of[0].first < own.first else []

    # In sequence ---------------------------------------------------------------

    def _after_call(self, own: Item, siblings: list[Item], begin: int) -> None:
        """What came next, but for calls of the same reply, which were decided on before."""
        in_sequence = (
            item.first
            for item in siblings
            if item.entry is not None and not (item.is_concurrent or item.entry.background)
        )
        next_reply = min((first for first in in_sequence if first > own.last), default=None)
        # In a user's code one call may have made use of another.
        by_agent = re.search(r"(?:^|/)(?:agent|todo):[^/]*/[^/]*$", own.name) is not None
        is_tool = by_agent and own.is_concurrent and own.call.startswith("tool:")
        for item in siblings:
            if is_tool and item.call == own.call:
                self._leave_out(entry for entry in item.entries if entry.step_id > begin)
            elif is_tool and item.is_concurrent:
                if next_reply is not None and item.first > next_reply:
                    self._leave_out(item.entries)
            elif item.first > own.last:
                self._leave_out(item.entries)

    # In a crew -----------------------------------------------------------------

    def _after_task(self, path: str, own: Item, siblings: list[Item]) -> None:
        by_number = {_task_number(item): item for item in (own, *siblings)}
        tasks = self._tasks(path)
        number = _task_number(own)
        if tasks is None or number > len(tasks):
            later = {each for each in by_number if each > number}
        else:
            later = tasks_after(tasks, number)
        ends = [own.last]
        for each in later & set(by_number):
            self._leave_out(by_number[each].entries)
            ends.append(by_number[each].last)
        # The crew itself hears of a task when that has ended.
        for item in siblings:
            if not item.last_part.startswith("task:") and item.first > min(ends):
                self._leave_out(item.entries)

    def _tasks(self, path: str) -> list[Mapping[str, Any]] | None:
        found = (self._made_of(path) or {}).get("tasks")
        return found if isinstance(found, list) else None

    def _made_of(self, path: str) -> Mapping[str, Any] | None:
        noted = [i for i in self._recorded.at(path) if what_of(i.name) == names.DEFINITION]
        content = self._recorded.content(noted[-1].name) if noted else None
        found = None if content is None else content.get("result")
        return found if isinstance(found, Mapping) else None

    # In a flow -----------------------------------------------------------------

    def _after_method(self, path: str, own: Item, siblings: list[Item]) -> None:
        items = [own, *siblings]
        executions = [item for item in items if item.last_part.startswith("method:")]
        triggers = self._triggers(path, executions)
        changed = {own.name: own}
        left = [own]
        while left:
            one = left.pop()
            new = [
                each
                for each in executions
                if each.name not in changed and self._follows(each, one, own, triggers)
            ]
            changed.update((each.name, each) for each in new)
            left += new
        for each in changed.values():
            if each is not own:
                self._leave_out(each.entries)
        end = min(each.last for each in changed.values())
        for item in items:
            if item not in executions and item.first > end:
                self._leave_out(item.entries)

    def _follows(self, each: Item, one: Item, own: Item, triggers: Triggers | None) -> bool:
        """Whether `each` depends on the method `one`, which is executed anew."""
        method, count = _method(each)
        before, number = _method(one)
        if one is not own and method == before and count > number:
            return True  # which time it is would be counted otherwise
        if self._shares_state(each, one, own):
            return True
        end = self._end(one)
        if end is None or each.first <= end:
            return False  # nothing can have waited for it
        return triggers is None or method in triggers.after(before)

    def _end(self, method: Item) -> int | None:
        """When the engine could hear of its end; None if it has none."""
        ends = [entry.step_id for entry in method.entries if _is_end_of(entry.name, method.name)]
        return min(ends, default=None)

    def _shares_state(self, each: Item, one: Item, own: Item) -> bool:
        """Whether what is stored of the state with `each` may hold something that `one` did."""
        did = names.numbered(one.name, names.METHOD_END, 1)
        if one is own and did in self._recorded.by_name and did not in self.entries:
            return False  # another result, and the same state
        after, before = self._did(each), self._did(one)
        if one.name in texts(after.get("unsettled")):
            return True
        end, other = self._end(each), self._end(one)
        if end is None or other is None or end < other:
            return False
        theirs = _fields(before)
        return bool(theirs) and (bool(after.get("again")) or not theirs.isdisjoint(_fields(after)))

    def _did(self, method: Item) -> Mapping[str, Any]:
        content = self._recorded.content(names.numbered(method.name, names.METHOD_END, 1))
        found = None if content is None else content.get("extra")
        return found if isinstance(found, Mapping) else {}

    def _triggers(self, path: str, executions: list[Item]) -> Triggers | None:
        methods = self._made_of(path)
        if methods is None:
            return None

        def emitted(router: str) -> set[str] | None:
            found: set[str] = set()
            for each in executions:
                if _method(each)[0] == router:
                    returned = self._returned(each)
                    if returned is None:
                        return None
                    found |= returned
            return found

        readable = {name: m for name, m in methods.items() if isinstance(m, Mapping)}
        return Triggers(readable, emitted)

    def _returned(self, method: Item) -> set[str] | None:
        """The texts in what a method or its review has returned; None if they are not known."""
        found: set[str] = set()
        for what in (names.METHOD_END, names.FEEDBACK):
            name = names.numbered(method.name, what, 1)
            content = self._recorded.content(name)
            if name not in self._recorded.by_name or "error" in (content or {}):
                continue
            result = (content or {}).get("result")
            if not isinstance(result, Mapping):
                return None
            if what == names.METHOD_END and "returned" not in result:
                return None  # a field of the state, or what has no form
            found |= texts(result)
            if isinstance(returned := result.get("returned"), (int, float)):
                found.add(str(returned))  # an event is the text of what was returned
        return found

    # In a workflow of the user's -------------------------------------------------

    def _steps_after(self, own: Item) -> None:
        """Steps of the user's own are told apart by their numbers: none may be passed over."""
        first = min((self._recorded.by_name[n].step_id for n in self.entries), default=own.last + 1)
        beside = [step for step in self._recorded.outside if first < step < own.last]
        kept = [e for e in self._recorded.entries if e.name not in self.entries]
        last = max((entry.step_id for entry in kept), default=0)
        after = [step for step in self._recorded.outside if step > own.last]
        if beside or any(step < last for step in after):
            raise ForkError(
                f"Run {self._recorded.run_id!r} is a workflow of your own that made DBOS steps "
                f"while {own.name} was at work. Only their numbers tell such steps apart, so "
                "nothing can be left out before them. DBOS.fork_workflow goes back by number."
            )
        self.steps.update(after)

    def _leave_out(self, entries: Iterable[Entry]) -> None:
        self.entries.update(entry.name for entry in entries)


def _task_number(item: Item) -> int:
    found = re.match(r"task:(\d+)", item.last_part)
    return int(found[1]) if found else 0


def _method(item: Item) -> tuple[str, int]:
    """Which method it is an execution of, and which time."""
    what, _, number = item.last_part.rpartition("#")
    return unquote(what.removeprefix("method:")), int(number)


def _is_end_of(name: str, method: str) -> bool:
    return name.rpartition("/")[0] == method and what_of(name) in _ENDS_OF_METHODS


def _fields(did: Mapping[str, Any]) -> set[str]:
    """The fields of the state that a method is stored to have changed."""
    state = did.get("state")
    state = state if isinstance(state, Mapping) else {}
    odd = state.get("$map")
    keys = [str(pair[0]) for pair in odd] if isinstance(odd, list) else list(state)
    again = [
        str(each).partition(":")[0].removeprefix("self.state.") for each in did.get("again", ())
    ]
    shared = [str(path[0]) for pair in did.get("same", ()) for path in pair if path]
    return {*keys, *map(str, did.get("removed", ())), *again, *shared} - {"its result"}
