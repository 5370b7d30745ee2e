"""What the bus runtime of one service counts. Labels are streams, durables and query names, never subjects."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class BusMetrics:
    """The metrics of one service, by the name incl_<service>_bus_…."""

    def __init__(self, service: str, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        prefix, where = f"incl_{service}_bus", ["stream", "durable"]

        def counter(name: str, text: str, labels: list[str]) -> Counter:
            return Counter(f"{prefix}_{name}", text, labels, registry=self.registry)

        self.handled = counter("handled_total", "Messages handled and committed.", where)
        self.duplicates = counter("duplicates_total", "Messages skipped: handled before.", where)
        self.early = counter("early_total", "Deliveries that came too early.", where)
        self.failed = counter("failed_total", "Failures of a handler.", where)
        self.retried = counter("retried_total", "Messages given back for a later delivery.", where)
        self.dead = counter("dead_total", "Messages that became dead letters.", where)
        self.rebound = counter("rebound_total", "Times a durable had to be bound anew.", where)
        self.handler_seconds = Histogram(
            f"{prefix}_batch_seconds", "Seconds of a batch, with its commit.", where, registry=self.registry,
            buckets=_SECONDS,
        )  # fmt: skip
        self.fetch_age = Gauge(f"{prefix}_fetch_age_seconds", "Since the server spoke.", where, registry=self.registry)
        self.paused = Gauge(f"{prefix}_paused", "1: waits for the database.", where, registry=self.registry)
        self.outbox_age = Gauge(f"{prefix}_outbox_age_seconds", "Of the oldest unsent event.", registry=self.registry)
        self.published = counter("published_total", "Events of the outbox that are stored on the bus.", [])
        self.publish_failed = counter("publish_failed_total", "Events of the outbox that could not be sent.", [])
        self.query_seconds = Histogram(
            f"{prefix}_query_seconds", "Seconds of an answer.", ["query"], registry=self.registry, buckets=_SECONDS
        )
        self.query_errors = counter("query_errors_total", "Answers that were errors.", ["query", "code"])
