"""A verb that is said of several runs: what can't be done with one holds up none of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import typer

from crewai_dbos import _command_lines
from crewai_dbos._commands.options import as_json_text, what_failed
from crewai_dbos._printable import plain
from crewai_dbos.control import Control
from crewai_dbos.errors import DefinitionError, RunNotFoundError, RunStateError, SealedError

T = TypeVar("T")


@dataclass(frozen=True)
class Did(Generic[T]):
    """What was done with a run.

    Attributes:
        run_id: Its whole id.
        value: What came of it.
    """

    run_id: str
    value: T


@dataclass(frozen=True)
class Refused:
    """Nothing was done with a run, or nobody knows.

    Attributes:
        given: What was given as its id.
        why: The reason.
    """

    given: str
    why: str


def one_by_one(
    control: Control, begins: Sequence[str], do: Callable[[str], T]
) -> Iterator[Did[T] | Refused]:
    """Do something with each run, and tell of each as soon as that is known.

    If the database goes in the middle, the rest is told as refused, and then the error is raised.

    Args:
        begins: Their ids, or the first letters.
        do: What is done with one.

    Raises:
        DefinitionError: It can be done with none, as it was called.
    """
    every = list(dict.fromkeys(begins))
    done: set[str] = set()
    wrong: dict[str, DefinitionError] = {}
    for position, given in enumerate(every):
        run_id = None
        try:
            run_id = control.id_of(given)
            if run_id in done:
                continue
            value = do(run_id)
        except (RunNotFoundError, RunStateError, SealedError) as error:
            yield Refused(given, str(error))
        except DefinitionError as error:
            wrong[given] = error
        except BaseException as error:
            why = what_failed(error)
            if run_id is None:
                yield Refused(given, f"Run {given!r}: not tried: {why}")
            else:
                look = _command_lines.show(run_id)
                yield Refused(given, f"Run {given!r}: not known whether it is done: {why}: {look}")
            for other in every[position + 1 :]:
                yield Refused(other, f"Run {other!r}: not tried: {why}")
            raise
        else:
            done.add(run_id)
            yield Did(run_id, value)
    if wrong and len(wrong) == len(every):
        raise next(iter(wrong.values()))
    for given, of_it in wrong.items():
        yield Refused(given, f"Run {given!r}: {of_it}")


def each(
    control: Control,
    begins: Sequence[str],
    do: Callable[[str], str],
    done: str,
    as_json: bool,
    then: Callable[[str], None] = lambda _: None,
) -> None:
    """Do something with each run, and say of each what became of it, whatever becomes of the rest.

    As JSON that is one object: the ids under `done`, and under ``refused`` why, by what was given.
    Of a single run it has ``run_id`` too, if it was done, and the error stream says why if not: so
    it was in release 0.3.0.

    Args:
        begins: Their ids, or the first letters.
        do: What is done with one; returns what is said of it.
        done: What the runs are then: ``cancelled``.
        then: Called with the id of each run with which it was done.

    Raises:
        typer.Exit: With 1, at the end, if a run was refused.
    """
    did: list[str] = []
    refused: dict[str, str] = {}
    several = len(begins) > 1
    try:
        for outcome in one_by_one(control, begins, do):
            if isinstance(outcome, Refused):
                refused[outcome.given] = outcome.why
                if not (as_json and several):
                    typer.echo(plain(outcome.why), err=True)
                continue
            did.append(outcome.run_id)
            if not as_json:
                typer.echo(plain(outcome.value))
            then(outcome.run_id)
    finally:
        if as_json and (did or refused):
            of_one = {} if several or not did else {"run_id": did[0]}
            typer.echo(as_json_text({**of_one, done: did, "refused": refused}))
        elif several and (did or refused):
            typer.echo(f"{len(did)} {done}, {len(refused)} refused.", err=True)
    if refused:
        raise typer.Exit(1)
