"""Before an LLM is asked: whether a budget is reached, and who may raise it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from dbos import DBOS

from crewai_dbos import _command_lines
from crewai_dbos._dbos_seam.context import detached
from crewai_dbos._journal import run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.scope import Scope
from crewai_dbos._people import policy
from crewai_dbos._people.asking import Asking, Said, ask, stop
from crewai_dbos._requests.request import Question
from crewai_dbos._stored import names
from crewai_dbos._stored.budget import Budget, amount, higher, is_amount
from crewai_dbos._stored.prices import PRICES_FILE, Prices
from crewai_dbos._stored.usage import Spent, Tokens, spent_in
from crewai_dbos._threads import start_thread
from crewai_dbos.errors import BudgetExceeded, DefinitionError, RunStoppedError

logger = logging.getLogger("crewai_dbos")

_METERS = "people.meters"

Limits = dict[str, float]
"""By what they count: ``tokens``, ``usd``."""


@contextmanager
def counted(scope: Scope, budget: Budget | None) -> Iterator[None]:
    """The block is work that may cost no more than `budget`.

    Args:
        scope: Its place.
        budget: None if there is none; what was recorded of an earlier one is passed over.
    """
    raised = _recorded(scope)
    if budget is None:
        yield
        return
    meter = _Meter(scope, budget, raised)
    meters: dict[str, _Meter] = scope.kept.setdefault(_METERS, {})
    meters[scope.path] = meter
    scope.journal.meters[scope.path] = meter.note
    try:
        yield
    finally:
        meters.pop(scope.path, None)
        scope.journal.meters.pop(scope.path, None)
        meter.give_up()


def check_prices(budget: Budget | None, llms: Iterable[Any]) -> None:
    """Refuse a budget in US dollars for LLMs without a price.

    Raises:
        DefinitionError: There is one.
    """
    if budget is None or budget.usd is None:
        return
    prices = Prices(budget.prices)
    for model in dict.fromkeys(getattr(llm, "model", None) for llm in llms):
        if isinstance(model, str) and prices.of(model) is None:
            raise DefinitionError(f"The budget is in US dollars. {_no_price(model)}")


def _no_price(model: str) -> str:
    return (
        f"There is no price for model {model!r}: give Budget(prices={{{model!r}: "
        f"Price(prompt=..., completion=...)}}), or name a file of prices in {PRICES_FILE}."
    )


def gate(scope: Scope, model: str) -> Callable[[str], Future[None] | None]:
    """For the `Call` of a request to `model`: it is held up while a budget around it is reached."""

    def opens(name: str) -> Future[None] | None:
        meters: dict[str, _Meter] = scope.kept.get(_METERS, {})
        for path, meter in list(meters.items()):
            if _is_inside(name, path) and (until := meter.held_up(model)) is not None:
                return until
        return None

    return opens


def _is_inside(name: str, path: str) -> bool:
    return not path or name.startswith(f"{path}/")


def _call() -> Call:
    # Before and after nothing: what is at work beside it decides when the limit is reached.
    return Call(names.BUDGET, kind="person", background=True)


def _recorded(scope: Scope) -> Limits:
    """What the limits were raised to, as it is recorded."""
    limits: Limits = {}
    while scope.is_recorded(names.BUDGET):
        limits |= scope.run(_call(), dict)
    return limits


class _Meter:
    """What one piece of work has used, and may use.

    Args:
        scope: Its place.
        budget: Its budget.
        raised: The limits that are recorded to hold instead.
    """

    def __init__(self, scope: Scope, budget: Budget, raised: Limits) -> None:
        self._scope = scope
        self._budget = budget
        self._people = policy.current()
        self._prices = Prices(budget.prices)
        self._lock = threading.RLock()
        self._limits = _higher(budget.limits, raised)
        self._used: dict[str | None, Tokens] = {}
        self._asked: Future[None] | None = None
        self._give_up: Callable[[], None] | None = None
        for name, entry in scope.entries():
            self.note(f"{scope.path}/{name}" if scope.path else name, scope.stored_of(entry))
        if None in self._used and budget.usd is not None:
            logger.warning(
                "Run %s: %s requests were recorded by an earlier release, which does not say of "
                "which model. The budget in US dollars is without them.",
                scope.run_id,
                self._used[None].requests,
            )

    def note(self, name: str, stored: Any) -> None:
        """Count the entry `name`, if it is of this work."""
        if not _is_inside(name, self._scope.path):
            return
        if not (found := spent_in(stored)):
            if isinstance(stored, Mapping) and stored.get("model") and "result" in stored:
                run_scope.warn_once(
                    f"The LLM {stored['model']!r} does not say how many tokens a request has "
                    "taken, so the budget is without its requests."
                )
            return
        with self._lock:
            for spent in found:
                before = self._used.get(spent.model, Tokens())
                self._used[spent.model] = before + spent.tokens

    def held_up(self, model: str) -> Future[None] | None:
        """What a request to `model` has to wait for; None if it may be made."""
        with self._lock:
            if self._asked is not None and not self._asked.done():
                return self._asked
            if self._is_priced(model) and self._reached() is None:
                return None
            opens: Future[None] = Future()
            self._asked = opens

        def work() -> None:
            try:
                with policy.holding(self._people), self._scope.entered():
                    try:
                        self._decide(model)
                    except Exception as error:  # of the database: nothing that a model should see
                        self._scope.fail(error)
            except BaseException as error:
                opens.set_exception(error)
            else:
                opens.set_result(None)

        # Nobody's own thread: whoever came first may be cancelled, and the others wait on.
        start_thread(work)
        return opens

    def give_up(self) -> None:
        """The work has ended: nobody waits for an answer any more.

        A run that is over, or left to its row, still wants it.
        """
        if self._scope.ended_by is not None:
            return
        with self._lock:
            asked, give_up = self._asked, self._give_up
        if give_up is not None and asked is not None and not asked.done():
            give_up()

    # What is used ----------------------------------------------------------------

    def _unpriced(self, model: str) -> list[str]:
        if self._budget.usd is None:
            return []
        with self._lock:
            models = dict.fromkeys((*filter(None, self._used), model))
        return [each for each in models if self._prices.of(each) is None]

    def _is_priced(self, model: str) -> bool:
        return not self._unpriced(model)

    def _spent(self) -> Limits:
        """What is used, by what the budget counts."""
        with self._lock:
            used = dict(self._used)
        spent: Limits = {"tokens": sum(used.values(), Tokens()).total}
        if self._budget.usd is not None:
            known = (Spent(model, each) for model, each in used.items() if model is not None)
            spent["usd"] = self._prices.usd(known) or 0.0
        return spent

    def _reached(self) -> str | None:
        """Which of the limits is reached."""
        spent = self._spent()
        return next((u for u, limit in self._limits.items() if spent[u] >= limit), None)

    def _at_limit(self) -> tuple[str, float, float]:
        """What is reached, how much is used of it, and the limit."""
        unit = self._reached() or next(iter(self._limits))
        return unit, self._spent()[unit], self._limits[unit]

    # At the limit ------------------------------------------------------------------

    def _decide(self, model: str) -> None:
        """Return when the limit is higher, or the answer says so; stop the run otherwise."""
        run_id = self._scope.run_id
        if unpriced := self._unpriced(model):
            stop(
                self._scope,
                RunStoppedError(
                    f"Run {run_id!r} has a budget in US dollars. {_no_price(unpriced[0])} Then "
                    f"{_command_lines.resume(run_id)}."
                ),
            )
        with self._lock:
            self._limits = _higher(self._limits, self._raised_by_people())
        if self._reached() is None:
            return
        if self._budget.on_limit == "fail":
            stop(self._scope, self._exceeded())
        limits = ask(self._scope, _call(), self._asking(), self._answered)
        with self._lock:
            self._limits = _higher(self._limits, limits)

    def _raised_by_people(self) -> Limits:
        """What `Control.raise_budget` has made of the limits."""
        status = detached(DBOS.get_workflow_status, self._scope.run_id)
        attributes = (status.attributes if status is not None else None) or {}
        raised = attributes.get(names.BUDGET_ATTRIBUTE)
        here = raised.get(self._scope.path) if isinstance(raised, Mapping) else None
        found = here if isinstance(here, Mapping) else {}
        return {unit: limit for unit, limit in found.items() if is_amount(limit)}

    def _exceeded(self, why: str = "") -> BudgetExceeded:
        run_id, (unit, used, limit) = self._scope.run_id, self._at_limit()
        return BudgetExceeded(
            f"Run {run_id!r} has used {amount(unit, used)}, with a limit of {amount(unit, limit)} "
            f"({self._scope.path or 'the whole run'}){why}. Raise it: "
            f"{_command_lines.raise_budget(run_id, unit, higher(limit, used))} (more than "
            f"{amount(unit, used)}), or in the definition. Then {_command_lines.resume(run_id)}: "
            "it goes on from there.",
            limit=limit,
            used=used,
            unit=unit,
            path=self._scope.path,
        )

    def _asking(self) -> Asking:
        unit, used, limit = self._at_limit()
        more = max(limit + self._budget.limits[unit], used + self._budget.limits[unit])
        number = {"type": "integer" if unit == "tokens" else "number", "exclusiveMinimum": used}
        question = Question(
            f"{self._scope.path or 'The run'} has used {amount(unit, used)}, with a "
            f"limit of {amount(unit, limit)}. Raise it to {amount(unit, more)}?",
            arguments={unit: more},
            schema={
                "type": "object",
                "properties": {unit: number},
                "additionalProperties": False,
            },
        )
        people = self._people
        return Asking(
            "budget",
            question,
            people.seconds,
            people.on_deadline,
            people.audience,
            # What is used may be more by the time that it is asked again.
            about={unit: limit},
            refusal=self._refusal,
            begun=self._begun,
        )

    def _begun(self, give_up: Callable[[], None]) -> None:
        self._give_up = give_up

    def _refusal(self, said: Said) -> BudgetExceeded | None:
        if said.answer is None:
            late = said.on_deadline != "approve"
            return self._exceeded(", and nobody has answered in time") if late else None
        if said.answer["is"] == "approve":
            return None
        reason = said.answer.get("reason")
        who = f", and {said.by or 'a person'} does not raise it"
        return self._exceeded(f"{who}: {reason}" if reason else who)

    def _answered(self, said: Said) -> Limits:
        """The new limits, as they are recorded."""
        if said.answer is None:
            return dict(self._asking().question.arguments or {})
        return dict(said.answer["arguments"])


def _higher(limits: Mapping[str, float], raised: Mapping[str, float]) -> Limits:
    """`limits`, with those of `raised` that are higher."""
    return {unit: max(limit, raised.get(unit, limit)) for unit, limit in limits.items()}
