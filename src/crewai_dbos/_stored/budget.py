"""How much work may cost: of a definition, or of one run and then stored with its work order."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from contextvars import Token
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from crewai_dbos._dbos_seam.context import current_context
from crewai_dbos._leases import RunVar
from crewai_dbos._setting import setting
from crewai_dbos._stored import prices
from crewai_dbos._stored.forms import Json
from crewai_dbos._stored.prices import Price
from crewai_dbos.errors import DefinitionError, UnstorableValueError

logger = logging.getLogger("crewai_dbos")

OnLimit = Literal["fail", "ask"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the LLM requests of a run may cost, in tokens, in US dollars, or both.

    It is counted from the journal: over crashes and restarts, with the requests of delegated tasks,
    of crews and agents inside, of memory, guardrails and planning. What is answered from the record
    counts once, as it has cost once. At the limit no further request is sent; those that are being
    made at that time end, and count too.

    What has a workflow of its own counts for itself: each item of a batch, and a run that the work
    begins with ``start()``. A request of an LLM that is not durable, in a tool or a recorded step,
    counts with that once it has ended, and is not held up. Embeddings do not count, as crewAI is
    not told what they take. Where nothing is recorded, before ``DBOS.launch()`` or inside a DBOS
    step, a kickoff with a budget raises `OutsideRunError`.

    Args:
        tokens: Of prompts and answers together.
        usd: In US dollars. It needs the price of each model that is asked.
        on_limit: What becomes of the run at the limit. ``fail``: it stops with `BudgetExceeded`.
            Resumed it goes on, if the limit is higher by then: that of the definition, or what
            `Control.raise_budget` has made it. ``ask``: it asks a person by a request of kind
            ``budget``, and waits as for any other. `Approve` raises it by as much again, or to
            another: ``Approve(arguments={"tokens": 200_000})``; `Reject` stops the run, as does a
            deadline of its `People` unless that approves.
        prices: What models cost, each a `Price`. After them come those of the JSON file that the
            environment variable ``CREWAI_DBOS_PRICES`` names, and those of LiteLLM's table.

    Raises:
        DefinitionError: An option can't mean anything.

    Example::

        from crewai import Agent, Crew, Task
        from crewai_dbos import Budget, DBOSCrew

        writer = Agent(role="Writer", goal="Write", backstory="Brief.", llm="gpt-4o-mini")
        report = Task(description="Write.", expected_output="A paragraph.", agent=writer)
        thrifty = DBOSCrew(
            crew_name="thrifty",
            orig_crew=Crew(agents=[writer], tasks=[report]),
            budget=Budget(tokens=200_000, on_limit="ask"),
        )
    """

    tokens: int | None = None
    usd: float | None = None
    on_limit: OnLimit = "fail"
    prices: Mapping[str, Price] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.tokens is None and self.usd is None:
            raise DefinitionError("A Budget has a limit: Budget(tokens=200_000) or Budget(usd=1.5)")
        if self.tokens is not None and (type(self.tokens) is not int or self.tokens <= 0):
            raise DefinitionError(f"tokens is a whole number from 1, not {self.tokens!r}")
        if self.usd is not None and not is_amount(self.usd):
            raise DefinitionError(f"usd is a number of US dollars above 0, not {self.usd!r}")
        if self.on_limit not in get_args(OnLimit):
            raise DefinitionError(f"on_limit is 'fail' or 'ask', not {self.on_limit!r}")
        object.__setattr__(self, "prices", prices.checked(self.prices))
        if self.usd is not None:
            prices.Prices(self.prices)  # a file that can't be read is told of now

    @property
    def limits(self) -> dict[str, float]:
        """Those that it has, by what they count."""
        both = {"tokens": self.tokens, "usd": self.usd}
        return {unit: limit for unit, limit in both.items() if limit is not None}

    def __str__(self) -> str:
        return " or ".join(amount(unit, limit) for unit, limit in self.limits.items())


def as_json(budget: Budget) -> dict[str, Json]:
    """What is stored of it."""
    priced = {model: prices.as_json(price) for model, price in budget.prices.items()}
    return {
        **budget.limits,
        "on_limit": budget.on_limit,
        **({"prices": priced} if priced else {}),
    }


def as_budget(budget: Any) -> Budget | None:
    """`budget` of a definition.

    Raises:
        DefinitionError: It is none.
    """
    if budget is not None and not isinstance(budget, Budget):
        raise DefinitionError(f"budget is a Budget: Budget(tokens=200_000), not {budget!r}")
    return budget


def is_amount(value: Any) -> bool:
    """Whether `value` is a number above 0."""
    return type(value) in (int, float) and math.isfinite(value) and value > 0


def higher(limit: float, used: float) -> float:
    """The next multiple of `limit` with which work that has used so much can go on."""
    return limit * max(2, math.floor(used / limit) + 1)


def amount(unit: str, number: float) -> str:
    """So many of `unit`, in words."""
    if unit == "tokens":
        return f"{int(number):,} token{'' if number == 1 else 's'}"
    cents = round(number, 2) == round(number, 6)
    return f"${number:,.2f}" if cents else f"${number:,.6f}".rstrip("0")


def budget_from(stored: Any) -> Budget | None:
    """The reverse of `as_json`; None of None.

    Raises:
        UnstorableValueError: It is something else.
    """
    if stored is None:
        return None
    try:
        given = stored.get("prices", {}).items()
        priced = {model: prices.price_from(model, price) for model, price in given}
        return Budget(**{**stored, "prices": priced})
    except (AttributeError, TypeError, DefinitionError) as error:
        raise UnstorableValueError(f"The budget of the run can't be read: {error}") from None


# Of one run --------------------------------------------------------------------


@dataclass
class _Given:
    budget: Budget
    run_id: str | None
    taken: bool = False


_given: RunVar[_Given | None] = RunVar("crewai_dbos_budget", default=None)


class SetBudget:
    """The runs that are begun in the block have this budget, in place of their definition's.

    It is stored with each of them, and holds wherever it is carried out. Inside a workflow, or a
    method of a flow, what is called in the block has it as a part of that run: it counts for
    itself, beside the budget of the whole. A batch in the block gives it to each of its items.

    Args:
        budget: How much.

    Example::

        from crewai_dbos import Budget, SetBudget
        from dbos import SetWorkflowID

        with SetWorkflowID("short-report"), SetBudget(Budget(tokens=50_000)):
            print(crew.kickoff({"topic": "otters"}).raw)
    """

    def __init__(self, budget: Budget) -> None:
        if not isinstance(budget, Budget):
            raise DefinitionError(
                f"SetBudget takes a Budget: SetBudget(Budget(tokens=50_000)), not {budget!r}"
            )
        self._budget = budget
        self._set: list[tuple[_Given, Token[Any]]] = []

    def __enter__(self) -> SetBudget:
        given = _Given(self._budget, _workflow())
        self._set.append((given, _given.set(given)))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        given, token = self._set.pop()
        _given.reset(token)
        if kind is None and not given.taken:
            logger.warning(
                "SetBudget: no durable agent, crew or flow was kicked off in the block, so the "
                "budget holds for nothing."
            )


def _workflow() -> str | None:
    context = current_context()
    return context.workflow_id if context is not None and context.is_within_workflow() else None


def for_run() -> Budget | None:
    """The budget that is set for a run that begins here; it is stored with its order."""
    given = _given.get()
    if given is None:
        return None
    given.taken = True
    return given.budget


def for_part(run_id: str) -> Budget | None:
    """The budget that is set for what is called here, inside the run.

    Raises:
        DefinitionError: It was set around the whole workflow, which would not have it on recovery.
    """
    given = _given.get()
    if given is not None and given.run_id != run_id:
        raise DefinitionError(
            "SetBudget was entered outside of the workflow that the kickoff is part of, where it "
            "would be lost on recovery. Enter it inside, around the kickoff; or give the "
            "definition a budget."
        )
    return for_run()


def given() -> Any:
    """What is set here, for `giving`: what a stream begins is begun when it is iterated."""
    for_run()
    return _given.get()


def giving(kept: Any) -> AbstractContextManager[Any]:
    """In the block is set what `given` has returned."""
    return setting(_given, kept)


def of_order(budget: Budget | None, run_id: str) -> AbstractContextManager[Any]:
    """In the block the run is carried out that was begun with `budget`."""
    return setting(_given, None if budget is None else _Given(budget, run_id))


def unset() -> AbstractContextManager[Any]:
    """In the block no budget is set for what begins there."""
    return setting(_given, None)
