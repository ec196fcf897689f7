"""What the service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from trt_facefusion.serving.seam import EngineState, ServesFaces, StatesReadings

_LATENCY_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 32)

_PREFIX = "trt_ff_"
_OWN = frozenset({"faces_total"})
"""What is counted here already."""

Gauge = Callable[[], float]


class ServiceMetrics:
    """Counters of one service, in a registry of their own; from any thread."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # when each counter began, a line for every line
        self.registry = CollectorRegistry()
        self.requests = self._count("requests", "Requests by route and status; 499: the client left", "route", "status")
        self.seconds = Histogram(
            "trt_ff_request_seconds", "From headers to answer", ["route"], buckets=_LATENCY_S, registry=self.registry
        )
        self.inference_s = Histogram(
            "trt_ff_inference_seconds", "One inference", buckets=_LATENCY_S, registry=self.registry
        )
        self.batch = Histogram(
            "trt_ff_batch_size", "Faces, or samples, of one inference", buckets=_SIZES, registry=self.registry
        )
        self.waited_s = Histogram(
            "trt_ff_queue_seconds", "Longest wait in the queue of an inference", buckets=_LATENCY_S,
            registry=self.registry,
        )  # fmt: skip
        self.faces = self._count("faces", "Faces rendered", "engine", "precision", "role")
        self.rejected = self._count("rejected", "Requests refused: overloaded, draining, deadline, ...", "reason")
        self.cancelled = self._count("cancelled", "Requests whose client left")
        self.received = self._count("received_bytes", "Bytes of requests")

    def watch(self, gauges: Sequence[tuple[str, str, Gauge]], engines: ServesFaces) -> None:
        """Ask for ``gauges`` (name, help, value), and the engines how they are, whenever metrics are read."""
        self.registry.register(_Watcher(gauges, engines))

    def observe(self, items: int, longest_wait_s: float, inference_s: float) -> None:
        """Count one inference."""
        self.batch.observe(items)
        self.waited_s.observe(longest_wait_s)
        self.inference_s.observe(inference_s)

    def write(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)

    def _count(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"trt_ff_{name}", text, labels, registry=self.registry)


class _Watcher(Collector):
    """What is asked for when metrics are read."""

    def __init__(self, gauges: Sequence[tuple[str, str, Gauge]], engines: ServesFaces) -> None:
        self._gauges, self._engines = gauges, engines

    def describe(self) -> Iterator[Metric]:
        """Nothing: the names are known only once the engines were asked."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The gauges, the state of every engine, and what engines say of themselves."""
        for name, text, read in self._gauges:
            yield GaugeMetricFamily(f"{_PREFIX}{name}", text, value=read())
        with suppress(Exception):  # engines that cannot be asked must not take the other metrics along
            yield _describe_states(self._engines.describe())
        if isinstance(self._engines, StatesReadings):
            with suppress(Exception):
                yield from _describe_readings(self._engines.read_metrics())


def _describe_states(states: Iterable[EngineState]) -> Metric:
    serving = GaugeMetricFamily(
        f"{_PREFIX}engine_serving", "1: the engine serves, 0: it is out", labels=["engine", "precision", "role"]
    )
    for state in states:
        serving.add_metric([state.engine, state.precision, state.role], float(state.state == "serving"))
    return serving


def _describe_readings(readings: Iterable[tuple[str, Mapping[str, str], float]]) -> Iterable[Metric]:
    families: dict[str, Metric] = {}
    for name, labels, value in readings:
        if name in _OWN:
            continue
        kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        family = families.setdefault(name, kind(f"{_PREFIX}{name}", name.replace("_", " "), labels=sorted(labels)))
        family.add_metric([labels[label] for label in sorted(labels)], value)  # type: ignore[attr-defined]
    return families.values()
