"""What the provisioner counts for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


class ProvisionerMetrics:
    """The metrics of one provisioner."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        to = self.registry
        name = "incl_provisioner"
        self.own_seconds = Counter(
            f"{name}_own_seconds", "CPU time of its own work (thread time), by part.", ["part"], registry=to
        )
        self.finished = Counter(f"{name}_finished", "Experiments that reached a final state.", ["state"], registry=to)
        self.placed = Counter(f"{name}_placed", "Attempts that were given room.", registry=to)
        self.passes = Counter(f"{name}_passes", "Passes of the scheduler's loop.", ["outcome"], registry=to)
        self.control = Counter(f"{name}_control", "Wanted states, by what came of writing.", ["outcome"], registry=to)
        self.nodes_lost = Counter(f"{name}_nodes_lost", "Machines that were silent for too long.", registry=to)
        self.queued = Gauge(f"{name}_queued", "Experiments that wait.", registry=to)
        self.running = Gauge(f"{name}_running", "Attempts that hold room.", registry=to)
        self.pass_seconds = Histogram(
            f"{name}_pass_seconds", "From a pass's begin to its commit.", buckets=_SECONDS, registry=to
        )

    @contextmanager
    def own_time(self, part: str) -> Iterator[None]:
        """Count the CPU time of this thread as the provisioner's own."""
        start = time.thread_time()
        try:
            yield
        finally:
            self.own_seconds.labels(part).inc(time.thread_time() - start)
