"""What the provisioner counts for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from incl_shared.clock import Clock
from incl_shared.recovery import Recovery
from incl_shared.states import FINAL_STATES, ExperimentState

PARTS = ("requests", "reports", "events", "reconcile", "cloud")
"""Of its own work."""
_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


class ProvisionerMetrics:
    """The metrics of one provisioner."""

    def __init__(self, registry: CollectorRegistry, recovery: Recovery, clock: Clock) -> None:
        self.recovery = recovery
        self._clock = clock
        self._oldest: float | None = None
        to = registry
        name = "incl_provisioner"
        self.own_seconds = Counter(
            f"{name}_own_seconds", "CPU time of its own work (thread time), by part.", ["part"], registry=to
        )
        self._own = {part: self.own_seconds.labels(part) for part in PARTS}
        self.finished = Counter(f"{name}_finished", "Experiments that reached a final state.", ["state"], registry=to)
        self.placed = Counter(f"{name}_placed", "Attempts that were given room.", registry=to)
        self.passes = Counter(f"{name}_passes", "Passes of the scheduler's loop.", ["outcome"], registry=to)
        self.cloud_rounds = Counter(f"{name}_cloud_rounds", "Looks at the cloud.", ["outcome"], registry=to)
        self.cloud_troubles = Counter(
            f"{name}_cloud_troubles", "Calls to the cloud that failed, retries done.", ["what", "reason"], registry=to
        )
        self.control = Counter(f"{name}_control", "Wanted states, by what came of writing.", ["outcome"], registry=to)
        self.nodes_lost = Counter(f"{name}_nodes_lost", "Machines that were silent for too long.", registry=to)
        self.queued = Gauge(f"{name}_queued", "Experiments that wait.", registry=to)
        self.running = Gauge(f"{name}_running", "Attempts that hold room.", registry=to)
        self._experiments = Gauge(f"{name}_experiments", "Those that are not over, by state.", ["state"], registry=to)
        self._nodes = Gauge(
            f"{name}_nodes", "Machines: alive, silent (no word, not lost yet), lost.", ["state"], registry=to
        )
        oldest = Gauge(f"{name}_oldest_queued_seconds", "How long the first one waits.", registry=to)
        oldest.set_function(self._waits)
        self.pass_seconds = Histogram(
            f"{name}_pass_seconds", "From a pass's begin to its commit.", buckets=_SECONDS, registry=to
        )

    def _waits(self) -> float:
        return 0.0 if self._oldest is None else max(0.0, self._clock.now() - self._oldest)

    def queue(self, waiting: int, running: int, oldest: float | None) -> None:
        """What the scheduler holds. oldest: when the first of those that wait came (epoch s)."""
        self.queued.set(waiting)
        self.running.set(running)
        self._oldest = oldest

    def census(self, experiments: Mapping[ExperimentState, int], nodes: Mapping[str, int]) -> None:
        """How many there are in each state."""
        for state in ExperimentState:
            if state not in FINAL_STATES and state is not ExperimentState.LOST:
                self._experiments.labels(state.value).set(experiments.get(state, 0))
        for name in ("alive", "silent", "lost"):
            self._nodes.labels(name).set(nodes.get(name, 0))

    def resign(self) -> None:
        """Another one schedules: what this one knows is old."""
        self.queue(0, 0, None)
        self._experiments.clear()
        self._nodes.clear()

    @contextmanager
    def own_time(self, part: str) -> Iterator[None]:
        """Count the CPU time of this thread as the provisioner's own."""
        start = time.thread_time()
        try:
            yield
        finally:
            self._own[part].inc(time.thread_time() - start)
