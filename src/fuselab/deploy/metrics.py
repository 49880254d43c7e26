"""A served model's counters for Prometheus, with prometheus-client where it is installed."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fuselab.errors import SetupError

if TYPE_CHECKING:
    from fuselab.deploy.served import CompiledModel

__all__ = ["PREFIX", "Collector", "expose"]

PREFIX = "fuselab_"
"""What metric names begin with: ``fuselab_calls_total{model="Block"}``."""


_collectors: weakref.WeakKeyDictionary[Any, Collector] = weakref.WeakKeyDictionary()
"""The collector of each registry: it takes a name of a metric once, so all models of a process share one."""

_lock = threading.Lock()


class Collector:
    """Reads the counters of every model when Prometheus asks, so that serving pays nothing for it.

    It keeps no model alive. Models of one name are added up, as while one replaces another.
    """

    def __init__(self, family: Any) -> None:
        self._models: weakref.WeakSet[CompiledModel] = weakref.WeakSet()
        self._family = family

    def add(self, model: CompiledModel) -> None:
        """Read this model's counters, too."""
        self._models.add(model)

    def collect(self) -> Iterator[Any]:
        """One counter family for each counter, with a value for each model's name."""
        from fuselab.deploy.served import COUNTERS

        with _lock:
            models = list(self._models)
        counts: dict[str, Counter[str]] = {}
        for model in models:
            counts.setdefault(model.name, Counter()).update(model.counters)
        for name, help_text in COUNTERS.items():
            metric = self._family(PREFIX + name, f"fuselab: {help_text}", labels=["model"])
            for model_name, found in sorted(counts.items()):
                metric.add_metric([model_name], found[name])
            yield metric


def expose(model: CompiledModel, registry: Any = None) -> Collector:
    """Register a model's counters with a registry of prometheus-client, its default one unless given.

    Returns:
        The collector that all models of the registry share.

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
    registry = prometheus_client.REGISTRY if registry is None else registry
    with _lock:
        collector = _collectors.get(registry)
        first = collector is None
        if collector is None:
            collector = _collectors[registry] = Collector(CounterMetricFamily)
        collector.add(model)
    if first:
        registry.register(collector)
    return collector
