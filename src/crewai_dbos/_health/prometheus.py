"""The metrics as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from crewai_dbos._health.metrics import INSTRUMENTS, Instrument, Source

if TYPE_CHECKING:
    from prometheus_client import Metric
    from prometheus_client.registry import Collector

Exposition = Callable[[str], tuple[str, bytes]]
"""From an ``Accept`` header to the content's type and the content."""

MISSING = "There is no prometheus-client here: pip install 'crewai-dbos[metrics]'"


def exposition(source: Source) -> Exposition | None:
    """The metrics of `source`, with those of the process; None without ``prometheus_client``.

    In a registry of its own: what the program registers in that of the library is its own affair.
    """
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector
        from prometheus_client.exposition import choose_encoder
    except ImportError:
        return None
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_collector(source))
    ProcessCollector(registry=registry)

    def exposed(accept: str) -> tuple[str, bytes]:
        encode, content_type = choose_encoder(accept)
        return content_type, encode(registry)

    return exposed


def _collector(source: Source) -> Collector:
    from prometheus_client.registry import Collector

    class Metrics(Collector):
        def collect(self) -> Iterable[Metric]:
            return [_family(each, source) for each in INSTRUMENTS]

    return Metrics()


def _family(instrument: Instrument, source: Source) -> Metric:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

    cls = CounterMetricFamily if instrument.is_counter else GaugeMetricFamily
    name = instrument.name.replace(".", "_")
    family = cls(name, f"{instrument.help}.", labels=instrument.labels, unit=instrument.unit)
    for key, number in sorted(instrument.values(source).items()):
        family.add_metric(key, number)
    return family
