"""10,000 random schedules of faults in virtual time: provisioner, agents and bus, each ended by the invariants.

No peer has such a thing to be run beside. The seeds are 1 to 10,000: the same schedules every time. What is real and
what is modelled: docs/mechanisms/simulation.md. INCL_BENCH_SCHEDULES=500 tries fewer.
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
    print(outcome.told())
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
        },
        "peers": {},
        "ratio": round(seconds / TARGET_S, 3),
        "target": {"seconds": TARGET_S, "schedules": SCHEDULES, "violations": 0},
        "ok": seconds <= TARGET_S and not outcome.wrong and outcome.schedules == count,
    }
