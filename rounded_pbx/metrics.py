"""What is counted for Prometheus. Labels come from the configuration and from our own code, never
from a call, so they cannot grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from . import __version__
from .records import CallRecord

#: Seconds: a call's deadline is 1.5 unless it is configured, and 30 at most.
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class State:
    """How the daemon is at one moment, for what is not counted but looked at.

    ``sessions`` and ``refused`` go by the kind of switch, ``breakers`` (True is open) by account.
    """

    ready: bool = True
    in_flight: int = 0
    tickets: int = 0
    sessions: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    breakers: Mapping[str, bool] = field(default_factory=dict)


class Metrics:
    """The counts of a daemon, from its start to its end.

    Args:
        state: asked whenever somebody reads the metrics.
    """

    def __init__(self, state: Callable[[], State]) -> None:
        self._registry = CollectorRegistry()
        self._calls = Counter(
            "rounded_calls",
            "Calls by what became of them",
            ["switch", "route", "outcome"],
            registry=self._registry,
        )
        self._staging = Histogram(
            "rounded_staging_seconds",
            "From the moment when the switch asked to the answer",
            ["switch"],
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._api = Histogram(
            "rounded_api_seconds",
            "Requests to the Rounded API, until their answer or their end",
            ["endpoint", "status"],
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._dropped = Counter(
            "rounded_errands_dropped",
            "What the platform was not told of staged calls (PATCH), or not asked to end",
            ["account"],
            registry=self._registry,
        )
        self._reloads = Counter(
            "rounded_reloads",
            "Readings of the configuration while running",
            ["result"],
            registry=self._registry,
        )
        for result in ("done", "refused"):  # or the first would be no increase to Prometheus
            self._reloads.labels(result)
        self._registry.register(_Looked(state))

    def count_call(self, record: CallRecord) -> None:
        """A call has had its answer, or nobody to give it to."""
        switch = record.switch.value
        self._calls.labels(switch, record.route, record.outcome).inc()
        self._staging.labels(switch).observe(record.ms / 1000)

    def count_request(self, endpoint: str, status: str, seconds: float) -> None:
        """The API has answered, or will not."""
        self._api.labels(endpoint, status).observe(seconds)

    def count_dropped(self, account: str) -> None:
        """An errand was given up."""
        self._dropped.labels(account).inc()

    def count_reload(self, *, worked: bool) -> None:
        """The configuration was read again."""
        self._reloads.labels("done" if worked else "refused").inc()

    def text(self) -> bytes:
        """Everything in Prometheus's text format 0.0.4."""
        return generate_latest(self._registry)


class _Looked(Collector):
    """What is looked at rather than counted."""

    def __init__(self, state: Callable[[], State]) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        state = self._state()
        yield _gauge("rounded_ready", "Whether calls are taken (1)", {"": int(state.ready)})
        yield _gauge("rounded_stagings_in_flight", "Stagings under way", {"": state.in_flight})
        yield _gauge("rounded_tickets", "Stagings begun early, not collected", {"": state.tickets})
        yield _gauge("rounded_sessions", "Calls in hand", state.sessions, "switch")
        breakers = {name: int(is_open) for name, is_open in state.breakers.items()}
        yield _gauge("rounded_breaker_open", "Whether the API is out (1)", breakers, "account")
        refused = CounterMetricFamily(
            "rounded_connections_refused", "Connections closed at once", labels=["switch"]
        )
        for switch, count in state.refused.items():
            refused.add_metric([switch], count)
        yield refused
        version = GaugeMetricFamily("rounded_build_info", "The version", labels=["version"])
        version.add_metric([__version__], 1)
        yield version


def _gauge(name: str, text: str, values: Mapping[str, int], label: str = "") -> Metric:
    gauge = GaugeMetricFamily(name, text, labels=[label] if label else [])
    for key, value in values.items():
        gauge.add_metric([key] if label else [], value)
    return gauge
