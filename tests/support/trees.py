"""Runs of any shape, whose every piece of work can be told apart, and that crash where told.

A tree is plain JSON, the argument of its workflow, so that another process can go on with it:

- ``["call", name]``, ``["failing", name]``, ``["step", name]`` (a bare DBOS step)
- ``["part", name, trees]``, ``["summary", name, trees]``: one after the other
- ``["threads", [trees, ...]]``, ``["tasks", [trees, ...]]``: branches side by side
- ``["fan", n]``, ``["ask", n]``: calls side by side, told apart by their name or their request
- ``["same", n]``: equal calls side by side
- ``["background", trees]``: a call on a thread of its own, while the trees are done in turn

Run as a program it works through trees and kills itself; see `main`.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import json
import os
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dbos import DBOS, SetWorkflowID

from crewai_dbos._journal.call import Call
from crewai_dbos._journal.joining import joined
from crewai_dbos._journal.run_scope import enclosing
from crewai_dbos._journal.scope import Scope
from support.launching import launched
from support.runs import result, whole_run

Tree = list[Any]


class Crash(BaseException):
    """Stands for the death of the process."""


def crash() -> None:
    raise Crash


class Doer:
    """Does the pieces of work, notes them, takes its time and crashes in one of them.

    Attributes:
        done: The texts of what was done. Each says where in the tree it belongs, and is unique.
        crashed: Whether it came to that.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        crash_at: int | None = None,
        crash: Callable[[], None] = crash,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.done: list[str] = []
        self.crashed = False
        self.over = threading.Event()
        self._random = random.Random(seed)
        self._crash_at = crash_at
        self._crash = crash
        self._note = note
        self._lock = threading.Lock()

    def do(self, place: str) -> str:
        with self._lock:
            wait = self._random.choice((0, 0, 0.001, 0.003))
        time.sleep(wait)
        with self._lock:
            text = f"<{place}={os.getpid()}.{next(_tokens)}>"
            self.done.append(text)
            self._note(text)
            if len(self.done) == self._crash_at:
                self.crashed = True
                self._crash()
        return text


_tokens = itertools.count(1)
doer = Doer()


def employ(new: Doer) -> Doer:
    """Have `new` do the work from now on."""
    global doer
    doer = new
    return new


@DBOS.step(name="bare")
def bare(place: str) -> str:
    return doer.do(place)


@DBOS.step(name="bare_async")
async def bare_async(place: str) -> str:
    return await asyncio.to_thread(doer.do, place)


@DBOS.workflow(name="grow")
def grow(trees: list[Tree]) -> list[Any]:
    """A bare step, a run that is a tree, a bare step."""
    try:
        with whole_run():
            before = bare("before")
            with joined("work") as scope:
                inside = in_turn(trees, scope, "")
            return [before, inside, bare("after")]
    finally:
        doer.over.set()


def outcome_of(handle: Any) -> Any:
    """The result of a run of `grow` that is under way.

    Raises:
        Crash: It crashed, so that the run is not over and has none.
    """
    assert doer.over.wait(60)
    if doer.crashed:
        raise Crash
    return result(handle)


def in_turn(trees: Iterable[Tree], scope: Scope, place: str) -> list[Any]:
    return [perform(tree, scope, f"{place}/{n}") for n, tree in enumerate(trees)]


def perform(tree: Tree, scope: Scope, place: str) -> Any:
    """The texts of what was done, in the shape of the tree."""
    kind, *rest = tree
    if kind == "call":
        return scope.run(Call(rest[0], kind="work"), lambda: doer.do(place))
    if kind == "failing":
        return failing(tree, scope, place)
    if kind == "step":
        return bare(place)
    if kind == "part":
        with scope.child(rest[0]).entered() as part:
            return in_turn(rest[1], part, place)
    if kind == "summary":
        call = Call(f"summary {rest[0]}", kind="work")
        return scope.group(call, lambda: in_turn(rest[1], here(), place), sequential=True)
    if kind == "threads":
        return side_by_side(
            lambda n=n, trees=trees: in_branch(trees, scope, f"t{n}", f"{place}/{n}")
            for n, trees in enumerate(rest[0])
        )
    if kind == "tasks":
        return asyncio.run(as_tasks(rest[0], scope, place))
    if kind == "ask":
        with scope.child("asking", sequential=False).entered() as asking:
            return side_by_side(
                lambda n=n: one(asking, "ask", f"{place}/{n}", request={"question": n})
                for n in range(rest[0])
            )
    if kind == "background":
        return beside(rest[0], scope, place)
    if kind == "fan":
        return side_by_side(
            lambda n=n: one(scope, f"f{n}", f"{place}/{n}", concurrent=True) for n in range(rest[0])
        )
    assert kind == "same"
    return sorted(
        side_by_side(lambda: one(scope, "same", place, concurrent=True) for _ in range(rest[0]))
    )


def one(scope: Scope, name: str, place: str, **options: Any) -> str:
    text: str = scope.run(Call(name, kind="work", **options), lambda: doer.do(place))
    return text


def failing(tree: Tree, scope: Scope, place: str) -> str:
    def fail() -> None:
        raise ValueError(doer.do(place))

    try:
        scope.run(Call(tree[1], kind="work"), fail)
    except ValueError as error:
        return str(error)
    raise AssertionError("the error was lost")


def here() -> Scope:
    scope = enclosing()
    assert scope is not None
    return scope


def in_branch(trees: list[Tree], scope: Scope, name: str, place: str) -> list[Any]:
    with scope.child(name).entered() as branch:
        return in_turn(trees, branch, place)


def side_by_side(functions: Iterable[Callable[[], Any]]) -> list[Any]:
    with ThreadPoolExecutor(8) as pool:
        copies = [(contextvars.copy_context(), function) for function in functions]
        futures = [pool.submit(context.run, function) for context, function in copies]
        return [future.result() for future in futures]


def beside(trees: list[Tree], scope: Scope, place: str) -> list[Any]:
    def in_the_background() -> str:
        return one(scope, f"background {place.count('/')}", f"{place}/background", background=True)

    with ThreadPoolExecutor(1) as pool:
        saved = pool.submit(contextvars.copy_context().run, in_the_background)
        meanwhile = in_turn(trees, scope, place)
        return [*meanwhile, saved.result()]


async def as_tasks(branches: list[list[Tree]], scope: Scope, place: str) -> list[Any]:
    async def branch(number: int, trees: list[Tree]) -> list[Any]:
        texts = []
        with scope.child(f"t{number}").entered() as inside:
            for n, (kind, name) in enumerate(trees):
                leaf = f"{place}/{number}/{n}"
                if kind == "step":
                    texts.append(await bare_async(leaf))
                    continue

                async def work(leaf: str = leaf) -> str:
                    return await asyncio.to_thread(doer.do, leaf)

                texts.append(await inside.arun(Call(name, kind="work"), work))
        return texts

    # All of them end before a crash goes on, as they would with the process.
    ended = await asyncio.gather(
        *(branch(n, trees) for n, trees in enumerate(branches)), return_exceptions=True
    )
    for outcome in ended:
        if isinstance(outcome, BaseException):
            raise outcome
    return ended


# What must come out ------------------------------------------------------------------


def places(trees: list[Tree]) -> list[str]:
    """Where in the result of `grow` which work belongs."""
    return ["before", *_places_in_turn(trees, ""), "after"]


def _places_in_turn(trees: Iterable[Tree], place: str) -> list[str]:
    return [found for n, tree in enumerate(trees) for found in _places(tree, f"{place}/{n}")]


def _places(tree: Tree, place: str) -> list[str]:
    kind, *rest = tree
    if kind in ("part", "summary"):
        return _places_in_turn(rest[1], place)
    if kind in ("threads", "tasks"):
        branches = enumerate(rest[0])
        return [p for n, trees in branches for p in _places_in_turn(trees, f"{place}/{n}")]
    if kind == "background":
        return [*_places_in_turn(rest[0], place), f"{place}/background"]
    if kind in ("fan", "ask"):
        return [f"{place}/{n}" for n in range(rest[0])]
    return [place] * (rest[0] if kind == "same" else 1)


def texts(value: Any) -> list[str]:
    """All texts of done work in `value`, in order."""
    return re.findall(r"<[^<>=]+=[\d.]+>", str(value))


def place_of(text: str) -> str:
    return text[1:].partition("=")[0]


def recorded(steps: Iterable[Any]) -> set[str]:
    """The texts that the rows of a run hold."""
    return {text for step in steps for text in texts([step["output"], step["error"]])}


def check(trees: list[Tree], outcome: Any, before: set[str], done: Iterable[str]) -> None:
    """`outcome` is what was recorded `before` this execution and what was `done` in it, no more."""
    done = list(done)
    got = texts(outcome)
    assert [place_of(text) for text in got] == places(trees), "results are at other places"
    redone = {place_of(text) for text in before} & {place_of(text) for text in done}
    assert redone <= _shared(trees), f"done again though recorded: {redone}"
    assert sorted(got) == sorted([*before, *done])


def _shared(trees: list[Tree]) -> set[str]:
    """The places of equal calls, of which some may be recorded and some not."""
    everywhere = places(trees)
    return {place for place in everywhere if everywhere.count(place) > 1}


# A process that dies -----------------------------------------------------------------


def grown(seed: int) -> list[Tree]:
    """A tree that looks as if it had grown by chance, the same in every process."""
    chance = random.Random(seed)

    def leaves(most: int) -> list[Tree]:
        kinds = ("call", "call", "step", "failing")
        return [[chance.choice(kinds), chance.choice("ab")] for _ in range(chance.randint(1, most))]

    def plain(most: int) -> list[Tree]:
        return [[chance.choice(("call", "step")), "a"] for _ in range(chance.randint(1, most))]

    def tree(depth: int) -> Tree:
        kinds = "call step part summary threads threads tasks fan ask same background"
        kind = chance.choice(kinds.split())
        if kind in ("call", "step"):
            return [kind, "a"]
        if kind in ("fan", "ask", "same"):
            return [kind, chance.randint(2, 4)]
        if kind == "tasks":
            return [kind, [plain(3) for _ in range(2)]]
        inner = [tree(depth - 1), *leaves(2)] if depth else leaves(3)
        if kind == "threads":
            return [kind, [inner, leaves(3), leaves(3)]]
        if kind == "background":
            return [kind, inner]
        return [kind, chance.choice("ab"), inner]

    return [tree(2) for _ in range(4)]


def main(database_url: str, log: str, first: int, last: int, crash_at: int) -> None:
    """Finish what was left, then grow the trees of these seeds, and die in the last one.

    Every piece of work is noted in `log` before it is over. At the end, if there is one, the
    results of all runs are printed as JSON.
    """

    def note(text: str) -> None:
        with open(log, "a") as file:
            file.write(f"{DBOS.workflow_id} {text}\n")

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    employ(Doer(seed=crash_at, note=note))
    with launched(database_url, application_version="1"):
        results = {}
        for seed in range(first, last + 1):
            crashing = crash_at if seed == last else None
            # What an earlier process left has to be over, so that only this tree is in flight.
            for unfinished in DBOS.list_workflows(status=["PENDING", "ENQUEUED"]):
                result(DBOS.retrieve_workflow(unfinished.workflow_id))
            employ(Doer(seed=crash_at, crash_at=crashing, crash=die, note=note))
            with SetWorkflowID(f"tree-{seed}"):
                results[seed] = result(DBOS.start_workflow(grow, grown(seed)))
        print(json.dumps(results))


if __name__ == "__main__":
    url, path, *numbers = sys.argv[1:]
    main(url, path, *map(int, numbers))
