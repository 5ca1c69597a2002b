"""What runs have cost: the tokens of their entries, and what those are in money."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crewai_dbos import _command_lines
from crewai_dbos._stored import names
from crewai_dbos._stored.budget import amount, higher, is_amount
from crewai_dbos._stored.cancelled import said_in
from crewai_dbos._stored.prices import Prices
from crewai_dbos._stored.usage import Spent, Tokens, spent_in
from crewai_dbos.errors import InvalidAnswer


@dataclass(frozen=True)
class Cost:
    """What the LLM requests of a run have cost, as far as it has come.

    Attributes:
        tokens: Of all requests, each counted once, however often it was replayed.
        usd: In US dollars; None if the price of one of the models is unknown.
        models: The tokens by model; under None those of runs that an earlier release recorded.
        unpriced: The models without a price.
        saved: The tokens that the last execution which has ended had from the record.
        taken_over: Of `tokens`, those that a fork has from the run that it was made of, which has
            paid for them.
        taken_over_usd: The same of `usd`.
    """

    tokens: Tokens = field(default_factory=Tokens)
    usd: float | None = 0.0
    models: Mapping[str | None, Tokens] = field(default_factory=dict)
    unpriced: tuple[str, ...] = ()
    saved: int = 0
    taken_over: Tokens = field(default_factory=Tokens)
    taken_over_usd: float | None = 0.0


def spent_by_entry(rows: Iterable[tuple[str, Any]]) -> dict[str, list[Spent]]:
    """What each entry has used that made LLM requests.

    Args:
        rows: The steps of a run: their names, and the JSON data of what is stored, sealed or not.
    """
    found = ((name, spent_in(stored)) for name, stored in rows if is_entry(stored))
    return {name: spent for name, spent in found if spent}


def is_entry(stored: Any) -> bool:
    """Whether `stored` is an entry of ours, and not the output of a step of the user's."""
    return isinstance(stored, Mapping) and stored.get("v") in names.ENTRY_VERSIONS


def cost_of(
    spent: Iterable[Spent], prices: Prices, saved: int = 0, taken_over: Sequence[Spent] = ()
) -> Cost:
    """What these have cost.

    Args:
        spent: What the entries of a run have used.
        prices: What is known of prices.
        saved: The tokens that the last execution had from the record.
        taken_over: What of `spent` was spent in another run.
    """
    models: dict[str | None, Tokens] = {}
    for each in spent:
        models[each.model] = models.get(each.model, Tokens()) + each.tokens
    return Cost(
        tokens=sum(models.values(), Tokens()),
        usd=prices.usd(Spent(model, tokens) for model, tokens in models.items()),
        models=models,
        unpriced=tuple(model for model in models if model and prices.of(model) is None),
        saved=saved,
        taken_over=sum((each.tokens for each in taken_over), Tokens()),
        taken_over_usd=prices.usd(taken_over),
    )


def saved_by_replay(attributes: Mapping[str, Any] | None) -> int:
    """The tokens that the last execution of a run had from the record.

    Args:
        attributes: Of its workflow. A run that goes on, or was stopped, does not say yet.
    """
    saved = said_in(attributes).get("tokens_saved")
    return saved if type(saved) is int else 0


def raised(
    run_id: str, attributes: Mapping[str, Any], limits: Mapping[str, float | None]
) -> dict[str, Any]:
    """The attribute that raises the limits of a run which has stopped at its budget.

    Args:
        run_id: Its workflow id.
        attributes: Of its workflow.
        limits: The new ones, by what they count; None of those that stay.

    Raises:
        InvalidAnswer: It has not stopped there, or would at once again.
    """
    reached = said_in(attributes).get("budget")
    if not isinstance(reached, Mapping):
        raise InvalidAnswer(
            f"Run {run_id!r} has not stopped at a budget. One that asks is answered with "
            "Approve(arguments={...}); one that goes on is raised once it has stopped."
        )
    wanted = {unit: limit for unit, limit in limits.items() if limit is not None}
    unit, used = str(reached.get("unit")), reached.get("used") or 0
    if not all(is_amount(limit) for limit in wanted.values()) or wanted.get(unit, 0) <= used:
        limit: Any = reached.get("limit")
        enough = higher(limit if is_amount(limit) else max(used, 1), used)
        raise InvalidAnswer(
            f"Run {run_id!r} has used {amount(unit, used)}. Give a limit above that: "
            f"{_command_lines.raise_budget(run_id, unit, enough)}"
        )
    before = attributes.get(names.BUDGET_ATTRIBUTE)
    every = dict(before) if isinstance(before, Mapping) else {}
    path = str(reached.get("path") or "")
    every[path] = {**every.get(path, {}), **wanted}
    return {names.BUDGET_ATTRIBUTE: every}
