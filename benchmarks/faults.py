"""Twice 10,000 random schedules of faults in virtual time, each ended by the invariants: provisioner, agents and bus
with machines that are there, and the same with machines that are made in a cloud.

No peer has such a thing to be run beside. The seeds are 1 to 10,000: the same schedules every time. What is real and
what is modelled: docs/mechanisms/simulation.md. INCL_BENCH_SCHEDULES=500 tries fewer of each.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

SCHEDULES, WORKERS, TARGET_S = 10_000, 2, 300.0


def bench() -> dict[str, Any]:
    """One run."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from simulation.campaign import run_campaign

    count = int(os.environ.get("INCL_BENCH_SCHEDULES", SCHEDULES))
    outcome = run_campaign(range(1, count + 1), WORKERS)
    clouds = run_campaign(range(1, count + 1), WORKERS, kind="cloud")
    print(outcome.told())
    print(clouds.told())
    seconds = outcome.wall_s * SCHEDULES / count
    return {
        "name": "faults",
        "unit": "s",
        "ours": {
            "seconds": round(outcome.wall_s, 1),
            "schedules": outcome.schedules,
            "violations": len(outcome.wrong),
            "faults": outcome.faults,
            "attempts": outcome.attempts,
            "virtual_hours": round(outcome.virtual_s / 3600, 1),
            "cpu_ms_each": round(1000 * outcome.cpu_s / max(1, outcome.schedules), 1),
            "cloud_seconds": round(clouds.wall_s, 1),
            "cloud_schedules": clouds.schedules,
            "cloud_violations": len(clouds.wrong),
            "cloud_faults": clouds.faults,
            "cloud_attempts": clouds.attempts,
            "cloud_cpu_ms_each": round(1000 * clouds.cpu_s / max(1, clouds.schedules), 1),
        },
        "peers": {},
        "ratio": round(seconds / TARGET_S, 3),
        "target": {"seconds": TARGET_S, "schedules": SCHEDULES, "violations": 0, "cloud_violations": 0},
        "ok": (
            seconds <= TARGET_S
            and not outcome.wrong
            and not clouds.wrong
            and (outcome.schedules, clouds.schedules) == (count, count)
        ),
    }
