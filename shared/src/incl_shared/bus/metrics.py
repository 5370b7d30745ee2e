"""What the bus runtime of a service counts. Labels are services, streams, durables and query names, never subjects."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Generic

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from incl_shared.recovery import MetricT, Outage, Recovery, family

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_WHERE = ("stream", "durable")


class _Of(Generic[MetricT]):
    """A metric whose first label is the service."""

    def __init__(self, metric: MetricT, service: str) -> None:
        self._metric: MetricT = metric
        self._service = service
        self._series: dict[tuple[str, ...], MetricT] = {}
        """To look for one in the metric takes longer than to count with it."""

    def labels(self, *values: str) -> MetricT:
        """The series with these further labels."""
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = self._metric.labels(self._service, *values)
        return series

    def remove(self, *values: str) -> None:
        """Show it no more."""
        self._series.pop(values, None)
        self._metric.remove(self._service, *values)


class BusMetrics:
    """The metrics of one service, by the name incl_bus_…, with the label `service`."""

    def __init__(self, service: str, registry: CollectorRegistry | None = None) -> None:
        self.registry = to = registry or CollectorRegistry()
        self.recovery = Recovery(service, to)

        def of(kind: type[MetricT], name: str, text: str, *labels: str, **more: Any) -> _Of[MetricT]:
            return _Of(family(to, kind, f"incl_bus_{name}", text, labels, **more), service)

        self.handled = of(Counter, "handled_total", "Messages handled and committed.", *_WHERE)
        self.duplicates = of(Counter, "duplicates_total", "Messages skipped: handled before.", *_WHERE)
        self.redelivered = of(Counter, "redelivered_total", "Deliveries that were not the first one.", *_WHERE)
        self.early = of(Counter, "early_total", "Deliveries that came too early.", *_WHERE)
        self.failed = of(Counter, "failed_total", "Failures of a handler.", *_WHERE)
        self.retried = of(Counter, "retried_total", "Messages given back for a later delivery.", *_WHERE)
        self.dead = of(Counter, "dead_total", "Messages that became dead letters, by kind of reason.", *_WHERE, "kind")
        self.rebound = of(Counter, "rebound_total", "Times a durable had to be bound anew.", *_WHERE)
        self.handler_seconds = of(
            Histogram, "batch_seconds", "Seconds of a batch, with its commit.", *_WHERE, buckets=_SECONDS
        )
        self.fetch_age = of(Gauge, "fetch_age_seconds", "Since the server spoke.", *_WHERE)
        self.pending = of(Gauge, "pending", "Messages that the durable has not fetched, when last told.", *_WHERE)
        self.lag = of(Gauge, "lag_seconds", "Age of the oldest message fetched and not settled.", *_WHERE)
        self.stream_used = of(Gauge, "stream_used_ratio", "Of the most bytes that it takes; it refuses more.", "stream")
        outage = (*_WHERE, "outage")
        self.paused = of(Gauge, "paused", "1: waits for this, and handles nothing.", *outage)
        self.pauses = of(Counter, "pauses_total", "Times that it had to wait for this.", *outage)
        self.paused_seconds = of(Counter, "paused_seconds_total", "How long, once it goes on.", *outage)
        self.connected = of(Gauge, "connected", "1: the bus is reached.").labels()
        self.reconnects = of(Counter, "reconnects_total", "Connections that came back.").labels()
        self.outbox_age = of(Gauge, "outbox_age_seconds", "Of the oldest unsent event.").labels()
        self.outbox_depth = of(Gauge, "outbox_depth", "Unsent events, at most.").labels()
        self.published = of(Counter, "published_total", "Events of the outbox that are stored on the bus.").labels()
        self.resent = of(Counter, "resent_total", "Events sent again to a bus that had lost them.").labels()
        self.publish_failed = of(
            Counter, "publish_failed_total", "Events of the outbox that could not be sent."
        ).labels()
        self.query_seconds = of(Histogram, "query_seconds", "Seconds of an answer.", "query", buckets=_SECONDS)
        self.query_errors = of(Counter, "query_errors_total", "Answers that were errors.", "query", "code")


class Pause:
    """The waiting of one durable for one thing: counted, timed, and a part of the service's outage."""

    def __init__(
        self, metrics: BusMetrics, where: tuple[str, str], outage: str, recovery: Outage,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        labels = (*where, outage)
        self._gauge = metrics.paused.labels(*labels)
        self._times = metrics.pauses.labels(*labels)
        self._seconds = metrics.paused_seconds.labels(*labels)
        self._recovery = recovery
        self._part = ".".join(where)
        self._monotonic = monotonic
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """How long it has waited; 0 while it does not."""
        return 0.0 if self._since is None else self._monotonic() - self._since

    def begin(self) -> None:
        """It waits. Said again, nothing changes."""
        if self._since is None:
            self._since = self._monotonic()
            self._gauge.set(1)
            self._times.inc()
            self._recovery.begin(self._part)

    def end(self) -> None:
        """It goes on."""
        if self._since is not None:
            self._seconds.inc(self._monotonic() - self._since)
            self._since = None
            self._gauge.set(0)
            self._recovery.end(self._part)
