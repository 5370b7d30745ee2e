"""The figures of sweeps, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from incl_shared.recovery import family

_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class HpoMetrics:
    """Counted where they happen."""

    def __init__(self, registry: CollectorRegistry) -> None:
        over, step = "Trials that are over.", "Steps of a sweep that failed, and are tried again."
        self.trials = family(registry, Counter, "incl_trials_total", over, ("state",))
        self.propose = family(
            registry, Histogram, "incl_propose_seconds", "To propose points, with waiting.", (), buckets=_BUCKETS
        )
        self.failed_steps = family(registry, Counter, "incl_sweep_step_failures_total", step, ()).labels("hpo")
