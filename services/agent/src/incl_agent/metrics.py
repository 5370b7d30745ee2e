"""What an agent shows to Prometheus, by the name incl_agent_…; its recovery with the label service="agent"."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from incl_shared.recovery import Recovery

Health = Callable[[], Mapping[str, object]]
_NOW = {
    "connected": "1: the bus is reached.",
    "jobs": "Jobs that this node holds, those left out that only wait to be stored.",
    "draining_jobs": "Jobs that have ended and whose telemetry the tracker has not stored yet.",
    "draining_bytes": "Bytes of their telemetry on this node.",
    "journal_unsent": "Reports that the bus has not taken yet.",
    "generation": "The newest wanted state that was seen.",
    "disk_free_bytes": "Room on the disk of the data folder.",
    "starts": "How often an agent was started on this data folder.",
}
_EVER = {
    "failures": "Faults at the edge of the agent's loops.",
    "dropped_jobs": "Jobs whose telemetry went before it was stored: the disk was full, or the limit reached.",
    "job_restarts": "Times that the task of a job broke on a fault of the agent and was begun again.",
    "disk_waits": "Times that a job had to wait because the disk of this machine was full.",
    "fenced": "Times that jobs were ended because this node was cut off from the bus.",
    "report_failures": "Reports and heartbeats that the bus did not take.",
}


class AgentMetrics:
    """The metrics of one agent. health: `Agent.health`, asked at each scrape; it looks at memory only."""

    def __init__(self, health: Health) -> None:
        self.registry = CollectorRegistry()
        self.recovery = Recovery("agent", self.registry)
        self.reconnects = Counter("incl_agent_reconnects", "Connections that came back.", registry=self.registry)
        self.adopted = Gauge(
            "incl_agent_adopted_jobs", "Jobs that this agent took up from an earlier one.", registry=self.registry
        )
        self.spool_dropped = Counter(
            "incl_agent_spool_dropped",
            "Records that jobs logged and that never came into their spool, by stream.",
            ["stream"],
            registry=self.registry,
        )
        self.registry.register(_FromHealth(health))

    def interrupted(self) -> None:
        """The connection broke."""
        self.recovery.bus.begin("connection")

    def reconnected(self) -> None:
        """It came back: reports and wanted states go on with it."""
        self.reconnects.inc()
        self.recovery.bus.end("connection")


class _FromHealth(Collector):
    def __init__(self, health: Health) -> None:
        self._health = health

    def collect(self) -> list[Metric]:
        """One look at the agent."""
        found = self._health()
        shown: list[Metric] = []
        for name, text in _NOW.items():
            gauge = GaugeMetricFamily(f"incl_agent_{name}", text)
            gauge.add_metric([], _number(found[name]))
            shown.append(gauge)
        for name, text in _EVER.items():
            counter = CounterMetricFamily(f"incl_agent_{name}", text)
            counter.add_metric([], _number(found[name]))
            shown.append(counter)
        return shown


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
