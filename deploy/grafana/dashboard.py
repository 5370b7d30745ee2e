"""The dashboard "INCL operations" as code: `python deploy/grafana/dashboard.py` writes incl-operations.json beside it.

Plain JSON of Grafana's dashboard schema 39; the data source is chosen when it is imported.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("incl-operations.json")
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_WIDE, _HIGH = 24, 7


@dataclass(frozen=True)
class Panel:
    """One panel. queries: (PromQL, legend); unit: Grafana's; stat: the newest value, large."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    about: str = ""
    stat: bool = False
    red_above: float | None = None


def _rate(name: str, by: str, of: str = "rate") -> str:
    return f"sum by ({by}) ({of}({name}[$__rate_interval]))"


def _p95(name: str, by: str, what: str = "") -> str:
    return f"histogram_quantile(0.95, sum by (le, {by}) (rate({name}_bucket{{{what}}}[$__rate_interval])))"


ROWS: dict[str, tuple[Panel, ...]] = {
    "Now": (
        Panel("Services cut off", (("sum(1 - incl_bus_connected) or vector(0)", ""),), stat=True, red_above=1),
        Panel("Consumers that wait", (("sum(incl_bus_paused) or vector(0)", ""),), stat=True, red_above=1),
        Panel("Oldest unsent event", (("max(incl_bus_outbox_age_seconds)", ""),), "s", stat=True, red_above=60),
        Panel("Dead letters, 24 h", (("sum(increase(incl_bus_dead_total[24h]))", ""),), stat=True, red_above=1),
        Panel(
            "Machines lost", (('sum(incl_provisioner_nodes{state="lost"})', ""),), stat=True, red_above=1
        ),
        Panel("Oldest queued", (("max(incl_provisioner_oldest_queued_seconds)", ""),), "s", stat=True),
    ),
    "Recovery": (
        Panel(
            "From a fault to work going on, p95",
            ((_p95("incl_recovery_seconds", "what"), "{{what}}"),),
            "s",
            "bus, database, lease: 10 s at most. attempt: the wait for room is in it.",
            red_above=10,
        ),
        Panel(
            "Faults",
            (
                (_rate("incl_recovery_seconds_count", "service, what", "increase"), "{{service}} {{what}}"),
                (_rate("incl_lease_takeovers_total", "service, lease", "increase"), "{{lease}} taken over"),
            ),
        ),
        Panel(
            "Consumers that wait",
            (("sum by (service, outage) (incl_bus_paused)", "{{service}} for the {{outage}}"),),
        ),
        Panel("Leases held", (("sum by (service, lease) (incl_lease_held)", "{{service}} {{lease}}"),)),
    ),
    "Messages": (
        Panel("Handled", ((_rate("incl_bus_handled_total", "service"), "{{service}}"),), "ops"),
        Panel(
            "Not fetched yet",
            (("sum by (service, stream) (incl_bus_pending)", "{{service}} {{stream}}"),),
        ),
        Panel(
            "Age of what is at hand",
            (("max by (service, stream) (incl_bus_lag_seconds)", "{{service}} {{stream}}"),),
            "s",
            red_above=30,
        ),
        Panel(
            "Came again, failed, given up",
            (
                (_rate("incl_bus_redelivered_total", "service"), "{{service}} redelivered"),
                (_rate("incl_bus_failed_total", "service"), "{{service}} failed"),
                (_rate("incl_bus_dead_total", "service, kind"), "{{service}} dead: {{kind}}"),
                (_rate("incl_bus_duplicates_total", "service"), "{{service}} duplicates"),
            ),
            "ops",
        ),
        Panel(
            "Outboxes",
            (
                ("max by (service) (incl_bus_outbox_depth)", "{{service}} events"),
                ("max by (service) (incl_bus_outbox_age_seconds)", "{{service}} age in s"),
            ),
        ),
        Panel(
            "Streams, full",
            (("max by (stream) (incl_bus_stream_used_ratio)", "{{stream}}"),),
            "percentunit",
            "A full one takes nothing more; agents and outboxes keep what is refused.",
            red_above=0.8,
        ),
        Panel("Answers, p95", ((_p95("incl_bus_query_seconds", "service"), "{{service}}"),), "s"),
    ),
    "Experiments and machines": (
        Panel("Experiments", (("sum by (state) (incl_provisioner_experiments)", "{{state}}"),)),
        Panel(
            "Ends", ((_rate("incl_provisioner_finished_total", "state", "increase"), "{{state}}"),)
        ),
        Panel("Machines", (("sum by (state) (incl_provisioner_nodes)", "{{state}}"),)),
        Panel("A pass of the scheduler, p95", ((_p95("incl_provisioner_pass_seconds", "job"), "pass"),), "s"),
    ),
    "Telemetry": (
        Panel(
            "Stored",
            (
                ("sum(rate(incl_tracker_points_total[$__rate_interval]))", "points"),
                ("sum(rate(incl_tracker_lines_total[$__rate_interval]))", "lines"),
            ),
            "ops",
        ),
        Panel(
            "From the bus to the table, p95",
            ((_p95("incl_tracker_telemetry_lag_seconds", "stream"), "{{stream}}"),),
            "s",
            red_above=30,
        ),
        Panel(
            "Not settled, and known to be lost",
            (
                ("sum(incl_tracker_unsettled)", "not settled"),
                ("sum(increase(incl_tracker_gaps_total[1h]))", "lost in 1 h"),
            ),
        ),
    ),
    "Agents": (
        Panel("Waits to be stored", (("incl_agent_draining_bytes", "{{instance}}"),), "bytes"),
        Panel("Reports that wait", (("incl_agent_journal_unsent", "{{instance}}"),)),
        Panel("Room on the disk", (("incl_agent_disk_free_bytes", "{{instance}}"),), "bytes"),
        Panel(
            "Dropped",
            (
                ("sum by (instance) (increase(incl_agent_spool_dropped_total[1h]))", "{{instance}} records"),
                ("increase(incl_agent_dropped_jobs_total[1h])", "{{instance}} jobs"),
            ),
        ),
    ),
}  # fmt: skip


def dashboard() -> dict[str, Any]:
    """The whole dashboard."""
    panels: list[dict[str, Any]] = []
    source = {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"}
    y = 0
    for title, row in ROWS.items():
        panels.append(
            {"type": "row", "title": title, "gridPos": _place(0, y, _WIDE, 1), "collapsed": False, "panels": []}
        )
        y += 1
        stat = row[0].stat
        across = len(row) if stat else 2
        width, height = _WIDE // across, 4 if stat else _HIGH
        for number, panel in enumerate(row):
            panels.append(_panel(panel, _place(number % across * width, y + number // across * height, width, height)))
        y += -(-len(row) // across) * height
    for number, one in enumerate(panels, 1):
        one["id"] = number
    return {
        "title": "INCL operations", "uid": "incl-operations", "tags": ["incl"], "schemaVersion": 39, "version": 1,
        "editable": True, "refresh": "30s", "time": {"from": "now-6h", "to": "now"}, "panels": panels,
        "templating": {"list": [source]},
    }  # fmt: skip


def _panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red_above is not None:
        steps.append({"color": "red", "value": panel.red_above})
    return {
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title, "description": panel.about, "datasource": _SOURCE, "gridPos": place,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "options": {} if panel.stat else {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": _SOURCE, "expr": query, "legendFormat": legend}
            for number, (query, legend) in enumerate(panel.queries)
        ],
    }  # fmt: skip


def _place(x: int, y: int, w: int, h: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": w, "h": h}


def text() -> str:
    """As the file has it."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
