"""What faults cost: how long work stood still, and who lost which lease. One `Recovery` a service, for Prometheus.

`incl_recovery_seconds{service, what}`, from a fault to work going on again:

- bus: from the broken connection until it is back and every durable of the service is fetched again;
- database: from the first write that it could not do until every part of the service writes again;
- lease: from the last renewal of a holder who did not give it up until another one has it;
- attempt: from the end of an attempt that is to be retried (a lost machine: its last word) to the next one's start.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

if TYPE_CHECKING:
    from incl_shared.leases import Lease

What = Literal["bus", "database", "lease", "attempt"]
BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, of no use here
MetricT = TypeVar("MetricT", Counter, Gauge, Histogram)
_FAMILIES = "_incl_families"


def family(
    registry: CollectorRegistry, kind: type[MetricT], name: str, text: str, labels: tuple[str, ...], **more: Any
) -> MetricT:
    """A metric with the label `service` first; the one that is there already where services share a registry.

    They are kept with their registry: one that is asked for its value holds the service that it asks, so a table
    of them beside the registries, weak or not, would keep every service for good.
    """
    known: dict[str, Any] = vars(registry).setdefault(_FAMILIES, {})
    if name not in known:
        known[name] = kind(name, text, ["service", *labels], registry=registry, **more)
    found: MetricT = known[name]
    return found


class Outage:
    """A fault that stops several parts of a service: it lasts from the first part's stop to the last one's return."""

    def __init__(self, observe: Callable[[float], None], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._observe = observe
        self._monotonic = monotonic
        self._parts: set[str] = set()
        self._since = 0.0

    @property
    def parts(self) -> frozenset[str]:
        """Those that stand still."""
        return frozenset(self._parts)

    @property
    def seconds(self) -> float | None:
        """How long it lasts so far; none while there is none."""
        return self._monotonic() - self._since if self._parts else None

    def begin(self, part: str) -> None:
        """This part stands still. Said again, nothing changes."""
        if not self._parts:
            self._since = self._monotonic()
        self._parts.add(part)

    def end(self, part: str) -> None:
        """This part goes on, or is there no more."""
        if part in self._parts:
            self._parts.discard(part)
            if not self._parts:
                self._observe(self._monotonic() - self._since)


class Recovery:
    """The figures of one service."""

    def __init__(self, service: str, registry: CollectorRegistry) -> None:
        self._service = service
        seconds = "From a fault to work going on again."
        self._seconds = family(registry, Histogram, "incl_recovery_seconds", seconds, ("what",), buckets=BUCKETS)
        lost, taken = "Leases that another one took.", "Leases taken from one who did not give them up."
        self._losses = family(registry, Counter, "incl_lease_losses_total", lost, ("lease",))
        self._takeovers = family(registry, Counter, "incl_lease_takeovers_total", taken, ("lease",))
        self._held = family(registry, Gauge, "incl_lease_held", "1: this process holds it.", ("lease",))
        self.bus = self._outage("bus")
        self.database = self._outage("database")

    def _outage(self, what: What) -> Outage:
        series = self._seconds.labels(self._service, what)
        return Outage(series.observe)

    def observe(self, what: What, seconds: float) -> None:
        """Work goes on after so many seconds."""
        self._seconds.labels(self._service, what).observe(max(0.0, seconds))

    def held(self, lease: Lease, name: str = "") -> None:
        """This process has a lease that it did not have before. name: as it is shown, its own by default."""
        name = name or lease.name
        self._held.labels(self._service, name).set(1)
        if lease.idle is not None:
            self._takeovers.labels(self._service, name).inc()
            self.observe("lease", lease.idle)

    def free(self, name: str, *, lost: bool) -> None:
        """This process has it no more. lost: another one took it."""
        self._held.labels(self._service, name).set(0)
        if lost:
            self._losses.labels(self._service, name).inc()
