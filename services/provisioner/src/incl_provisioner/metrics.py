"""Prometheus counters of the provisioner. One set a process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

OWN_SECONDS = Counter(
    "incl_provisioner_own_seconds", "CPU time of the provisioner's own work, by part (thread time).", ["part"]
)
JOBS_FINISHED = Counter("incl_provisioner_experiments_finished", "Experiments that reached a final state.", ["state"])
ATTEMPTS_PLACED = Counter("incl_provisioner_attempts_placed", "Attempts that were given room.")
PASSES = Counter("incl_provisioner_passes", "Passes of the scheduler's loop.", ["outcome"])
REFUSED = Counter("incl_provisioner_experiments_refused", "Experiments refused at submit, by kind.", ["kind"])
CONTROL_MESSAGES = Counter("incl_provisioner_control_messages", "Wanted states published, by outcome.", ["outcome"])
NODES_LOST = Counter("incl_provisioner_nodes_lost", "Machines that were silent for longer than their lease.")
QUEUED = Gauge("incl_provisioner_queued", "Experiments that wait for room.")
RUNNING = Gauge("incl_provisioner_running", "Attempts that hold room.")
PASS_SECONDS = Histogram(
    "incl_provisioner_pass_seconds",
    "Time from the beginning of a pass to its commit.",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
)


@contextmanager
def own_time(part: str) -> Iterator[None]:
    """Count the CPU time of this thread as the provisioner's own."""
    start = time.thread_time()
    try:
        yield
    finally:
        OWN_SECONDS.labels(part).inc(time.thread_time() - start)
