"""What the tracker counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter

POINTS = Counter("incl_tracker_points_total", "Points stored.")
LINES = Counter("incl_tracker_lines_total", "Log lines stored.")
REPEATED = Counter("incl_tracker_repeated_records_total", "Records that came again and were stored already.")
UNREADABLE = Counter("incl_tracker_unreadable_records_total", "Records of a spool that could not be read.")
FOREIGN = Counter("incl_tracker_foreign_total", "Experiments whose id another project had written under.")
SETTLED = Counter("incl_tracker_settled_total", "Attempts settled.")
GAPS = Counter("incl_tracker_gaps_total", "Records known to be lost at a settlement.")
LIVE = Counter("incl_tracker_live_total", "Live messages sent.", ["kind"])
LIVE_FAILED = Counter("incl_tracker_live_failed_total", "Live messages that could not be sent.")
ALL = (POINTS, LINES, REPEATED, UNREADABLE, FOREIGN, SETTLED, GAPS, LIVE, LIVE_FAILED)
