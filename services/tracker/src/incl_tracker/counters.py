"""What the tracker counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

POINTS = Counter("incl_tracker_points_total", "Points stored.", registry=None)
LINES = Counter("incl_tracker_lines_total", "Log lines stored.", registry=None)
REPEATED = Counter(
    "incl_tracker_repeated_records_total", "Records that came again and were stored already.", registry=None
)
UNREADABLE = Counter(
    "incl_tracker_unreadable_records_total", "Records of a spool that could not be read.", registry=None
)
REFUSED = Counter(
    "incl_tracker_refused_records_total", "Records of metrics that were too many for their experiment.", registry=None
)
REFUSED_ALERTS = Counter(
    "incl_tracker_refused_alerts_total", "Alerts that were too many for their experiment.", registry=None
)
REFUSED_PARAMS = Counter(
    "incl_tracker_refused_params_total", "Parameters that were too many for their experiment.", registry=None
)
FOREIGN = Counter(
    "incl_tracker_foreign_total", "Experiments whose id another project had written under.", registry=None
)
SETTLED = Counter("incl_tracker_settled_total", "Attempts settled.", registry=None)
GAPS = Counter("incl_tracker_gaps_total", "Records known to be lost at a settlement.", registry=None)
LAPSED = Counter("incl_tracker_lapsed_runs_total", "Runs outside the platform that went silent.", registry=None)
LIVE = Counter("incl_tracker_live_total", "Live messages sent.", ["kind"], registry=None)
LIVE_FAILED = Counter("incl_tracker_live_failed_total", "Live messages that could not be sent.", registry=None)
PURGED = Counter("incl_tracker_purged_total", "Experiments purged.", registry=None)
UPKEEP_FAILED = Counter(
    "incl_tracker_upkeep_failed_total", "Rounds of background work that failed.", ["work"], registry=None
)
OLDER = Counter(
    "incl_tracker_older_than_bus_total",
    "Starts at which the database lacked what was handled.",
    ["stream"],
    registry=None,
)
PARTITIONS = Gauge("incl_tracker_partitions", "Partitions that this tracker consumes.", registry=None)
LAG = Histogram(
    "incl_tracker_telemetry_lag_seconds",
    "From the bus's taking of telemetry to its being stored: the oldest message of a batch.",
    ["stream"],
    registry=None,
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
)
UNSETTLED = Gauge("incl_tracker_unsettled", "Attempts that ended and wait for their last records.", registry=None)
ALL = (
    LAG,
    UNSETTLED,
    REFUSED,
    REFUSED_ALERTS,
    REFUSED_PARAMS,
    OLDER,
    PARTITIONS,
    LAPSED,
    PURGED,
    UPKEEP_FAILED,
    POINTS,
    LINES,
    REPEATED,
    UNREADABLE,
    FOREIGN,
    SETTLED,
    GAPS,
    LIVE,
    LIVE_FAILED,
)


def register(registry: CollectorRegistry) -> None:
    """Show them beside the bus metrics of a service."""
    for counter in ALL:
        registry.register(counter)
