"""What models cost: prices that the user gives, or those that LiteLLM or crewAI has a table of."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from crewai_dbos._stored.usage import Spent, Tokens
from crewai_dbos.errors import DefinitionError

PRICES_FILE = "CREWAI_DBOS_PRICES"
"""The environment variable with the path of a JSON file of prices."""

_TABLES = (
    ("litellm", "model_prices_and_context_window_backup.json"),
    ("crewai", "llms/litellm_catalog/model_prices_and_context_window.json"),
)
"""Where packages have LiteLLM's table; none of them is imported."""

_MILLION = 1_000_000


@dataclass(frozen=True)
class Price:
    """What a model costs, in US dollars per million tokens.

    Args:
        prompt: Of what is sent.
        completion: Of what is answered, reasoning included.
        cached: Of what is sent and the provider had read before; by default as `prompt`.
        cache_creation: Of what is sent and the provider keeps for later; by default as `prompt`.

    Raises:
        DefinitionError: One is no number from 0.

    Example::

        from crewai_dbos.control import Control, Price

        prices = {"gpt-4o-mini": Price(prompt=0.15, completion=0.60, cached=0.075)}
        with Control("sqlite:///support.sqlite", prices=prices) as control:
            print(control.cost_of(run_id).usd)
    """

    prompt: float
    completion: float
    cached: float | None = None
    cache_creation: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.default is None:
                continue
            if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
                raise DefinitionError(
                    f"Price: {field.name} is a number of US dollars per million tokens, 0 or more; "
                    f"not {value!r}"
                )


def usd_of(price: Price, tokens: Tokens) -> float:
    """What `tokens` cost, in US dollars."""
    cached = min(tokens.cached, tokens.prompt)
    created = min(tokens.cache_creation, tokens.prompt - cached)
    total = (
        (tokens.prompt - cached - created) * price.prompt
        + cached * (price.prompt if price.cached is None else price.cached)
        + created * (price.prompt if price.cache_creation is None else price.cache_creation)
        + tokens.completion * price.completion
    )
    return total / _MILLION


def as_json(price: Price) -> dict[str, float]:
    """What is stored of it."""
    return {name: value for name, value in asdict(price).items() if value is not None}


def price_from(what: str, stored: Any) -> Price:
    """The reverse of `as_json`, for the model `what`.

    Raises:
        DefinitionError: It is something else.
    """
    known = {field.name for field in fields(Price)}
    if not isinstance(stored, Mapping) or not {"prompt", "completion"} <= set(stored) <= known:
        raise DefinitionError(
            f'The price of {what!r} is {{"prompt": 0.15, "completion": 0.6}}, in US dollars per '
            f'million tokens, perhaps with "cached" and "cache_creation"; not {stored!r}'
        )
    return Price(**stored)


def checked(prices: Mapping[str, Price] | None) -> dict[str, Price]:
    """`prices` as they were given.

    Raises:
        DefinitionError: They are no prices by model.
    """
    found = dict(prices or {})
    for model, price in found.items():
        if not isinstance(model, str) or not isinstance(price, Price):
            raise DefinitionError(
                'prices are Price objects by model: {"gpt-4o-mini": Price(prompt=0.15, '
                f"completion=0.60)}}; not {model!r}: {price!r}"
            )
    return found


class Prices:
    """What is known of the prices of models.

    Args:
        given: Those of the user, which come first. After them come those in the file that
            ``CREWAI_DBOS_PRICES`` names, then LiteLLM's table, of LiteLLM or of crewAI.

    Raises:
        DefinitionError: The file is not there, or has something else in it.
    """

    def __init__(self, given: Mapping[str, Price] | None = None) -> None:
        path = os.environ.get(PRICES_FILE)
        self._given = {**(_from_file(path) if path else {}), **checked(given)}

    def of(self, model: str) -> Price | None:
        """The price of a model, with or without its provider before it; None if it is unknown."""
        for name in _spellings(model):
            if (price := self._given.get(name)) is not None:
                return price
        for name in _spellings(model):
            if (price := _listed(name)) is not None:
                return price
        return None

    def usd(self, spent: Iterable[Spent]) -> float | None:
        """What requests have cost, in US dollars.

        Returns:
            None if the price of one of them is unknown, or its model is.
        """
        total = 0.0
        for each in spent:
            price = None if each.model is None else self.of(each.model)
            if price is None:
                return None
            total += usd_of(price, each.tokens)
        return round(total, 9)


def dollars(amount: float | None) -> str:
    """US dollars, as people read them; of what is not known, a question mark."""
    if amount is None:
        return "$ ?"
    if 0 < amount < 0.0001:
        return "<$0.0001"
    return f"${amount:.4f}" if 0 < amount < 0.1 else f"${amount:.2f}"


def _spellings(model: str) -> Iterable[str]:
    while True:
        yield model
        _, slash, model = model.partition("/")
        if not slash:
            return


def _from_file(path: str) -> dict[str, Price]:
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DefinitionError(
            f"{PRICES_FILE} names {path!r}, which can't be read: {error}. It is a JSON file: "
            '{"gpt-4o-mini": {"prompt": 0.15, "completion": 0.6}}'
        ) from None
    if not isinstance(found, dict):
        raise DefinitionError(f"{PRICES_FILE} names {path!r}, which has no prices by model in it")
    return {model: price_from(model, price) for model, price in found.items()}


def _listed(model: str) -> Price | None:
    """The price in LiteLLM's table."""
    found = _table().get(model)
    if not isinstance(found, dict):
        return None

    def per_million(name: str) -> float | None:
        value = found.get(name)
        if not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
            return None
        return round(value * _MILLION, 9)

    prompt, completion = per_million("input_cost_per_token"), per_million("output_cost_per_token")
    if prompt is None or completion is None:
        return None
    return Price(
        prompt,
        completion,
        per_million("cache_read_input_token_cost"),
        per_million("cache_creation_input_token_cost"),
    )


@functools.cache
def _table() -> Mapping[str, Any]:
    for package, inside in _TABLES:
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            try:
                found = json.loads((Path(folder) / inside).read_text(encoding="utf-8"))
            except (OSError, ValueError):  # another release has it elsewhere, or not at all
                continue
            if isinstance(found, dict):
                return found
    return {}
