"""The tree of a run: places in it, and as much of it as a reader can take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from crewai_dbos._http.problems import Problem
from crewai_dbos.control import Node, Run

USUAL = 2_000
"""Nodes of a tree where nobody says how many."""

MOST = 20_000


@dataclass(frozen=True)
class Tree(Run):
    """A run with what it has done.

    Attributes:
        left_out: How many nodes are missing: the last of the tree, read from top to bottom.
    """

    left_out: int = 0


def tree(run: Run, at: str | None, limit: int) -> Tree:
    """A run with the first nodes of its tree, read from top to bottom.

    Args:
        run: The run with its whole tree.
        at: The path of a node, of which what is inside is wanted; None for all.
        limit: At most so many nodes.

    Raises:
        Problem: There is no such node.
    """
    nodes = run.children if at is None else found(run, at).children
    count = sum(1 for _ in every(nodes))
    cut, _ = _first(nodes, limit)
    return Tree(**{**vars(run), "children": cut}, left_out=max(0, count - limit))


def found(run: Run, path: str) -> Node:
    """The node of this path.

    Raises:
        Problem: There is none.
    """
    node = find(run, path)
    if node is None:
        raise Problem(404, f"There is no {path!r} in run {run.run_id!r}.", "unknown-place")
    return node


def find(run: Run, path: str) -> Node | None:
    """The node of this path, if there is one."""
    return next((node for node in every(run.children) if node.path == path), None)


def every(nodes: tuple[Node, ...]) -> Iterator[Node]:
    """These nodes and all inside, from top to bottom."""
    for node in nodes:
        yield node
        yield from every(node.children)


def _first(nodes: tuple[Node, ...], limit: int) -> tuple[tuple[Node, ...], int]:
    """The first of these, and how many may follow them."""
    kept: list[Node] = []
    for node in nodes:
        if limit == 0:
            break
        inside, limit = _first(node.children, limit - 1)
        kept.append(replace(node, children=inside))
    return tuple(kept), limit
