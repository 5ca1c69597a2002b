"""The same metrics in the user's OpenTelemetry, if the program has set a meter provider."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from crewai_dbos._health.metrics import INSTRUMENTS, Instrument, Source

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

_source: Source | None = None
"""That of this process's worker, if there is one: instruments are made once, and stay."""

_offered: list[MeterProvider] = []


def is_wanted() -> bool:
    """Whether the program has set a meter provider."""
    return _provider() is not None


def tell_of(source: Source | None) -> None:
    """Have the provider read `source` from now on, or nothing any more."""
    global _source
    _source = source
    provider = _provider()
    if source is None or provider is None or any(each is provider for each in _offered):
        return
    _offered.append(provider)
    meter = provider.get_meter("crewai_dbos")
    for each in INSTRUMENTS:
        make = meter.create_observable_counter if each.is_counter else meter.create_observable_gauge
        unit = {"seconds": "s"}.get(each.unit, each.unit)
        make(each.name, callbacks=[_reading(each)], unit=unit, description=each.help)


def _provider() -> MeterProvider | None:
    try:
        from opentelemetry import metrics
    except ImportError:
        return None
    provider = metrics.get_meter_provider()
    # The package of the API has none that measures: what it has stands for one that is not set.
    return None if type(provider).__module__.startswith("opentelemetry.metrics") else provider


def _reading(instrument: Instrument) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(_: CallbackOptions) -> list[Observation]:
        from opentelemetry.metrics import Observation

        values = {} if _source is None else instrument.values(_source)
        return [
            Observation(number, dict(zip(instrument.labels, key, strict=True)))
            for key, number in values.items()
        ]

    return read
