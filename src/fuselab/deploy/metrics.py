"""A served model's counters for Prometheus, with prometheus-client where it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fuselab.errors import SetupError

if TYPE_CHECKING:
    from fuselab.deploy.served import CompiledModel

__all__ = ["PREFIX", "Collector", "expose"]

PREFIX = "fuselab_"
"""What metric names begin with: ``fuselab_calls_total{model="Block"}``."""


class Collector:
    """Reads the counters when Prometheus asks, so that serving pays nothing for it."""

    def __init__(self, model: CompiledModel, family: Any) -> None:
        self._model = model
        self._family = family

    def collect(self) -> Iterator[Any]:
        """One counter family for each counter, labelled with the model's name."""
        from fuselab.deploy.served import COUNTERS

        counters = self._model.counters
        for name, help_text in COUNTERS.items():
            metric = self._family(PREFIX + name, f"fuselab: {help_text}", labels=["model"])
            metric.add_metric([self._model.name], counters[name])
            yield metric


def expose(model: CompiledModel, registry: Any = None) -> Collector:
    """Register a model's counters with a registry of prometheus-client, its default one unless given.

    Raises:
        SetupError: prometheus-client is not installed.
    """
    try:
        import prometheus_client
        from prometheus_client.core import CounterMetricFamily
    except ImportError as error:
        raise SetupError(
            "prometheus-client is not installed", hint="pip install 'fuselab[prometheus]' (or prometheus-client)"
        ) from error
    collector = Collector(model, CounterMetricFamily)
    (prometheus_client.REGISTRY if registry is None else registry).register(collector)
    return collector
