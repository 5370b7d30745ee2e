"""Twenty faults of the real platform, drawn by seeds: how soon does the work go on, and does everything end right?

`incl up --processes` with PostgreSQL behind its services. A seed is a victim (a service, the bus, PostgreSQL, all of
it, a shim, a training process), a fault (kill -9, SIGSTOP for up to 20 s, restart), the phases at which experiments are
held meanwhile, and a moment. Recovery counts from the kill, or from when the frozen goes on or the restarted is back,
to the next of each experiment's work as the tracker tells it. Afterwards the invariants are looked at: every experiment
one right end, every point and line once, one attempt at a time, nothing left.

INCL_BENCH_SEEDS=7 or 3,5,8 or 0-19 (the default) plays these.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from incl_local.chaos.arena import Arena, arena
from incl_local.chaos.rounds import Outcome, Round
from incl_local.chaos.seeds import draw
from incl_shared.testing.invariants import violations

TARGET_S = 10.0
SEEDS = "0-19"


def bench() -> dict[str, Any]:
    """Every seed on one platform."""
    seeds = chosen(os.environ.get("INCL_BENCH_SEEDS", SEEDS))
    recoveries: list[float] = []
    broken: list[str] = []
    with tempfile.TemporaryDirectory() as folder, arena(Path(folder)) as made:
        for seed in seeds:
            seconds, found = one(made, Path(folder) / f"seed {seed}", seed)
            recoveries += seconds
            broken += found
    p95 = percentile(recoveries, 0.95)
    return {
        "name": "chaos",
        "unit": "s",
        "ours": {
            "recovery_p95_s": p95,
            "recovery_median_s": percentile(recoveries, 0.5),
            "recovery_worst_s": max(recoveries, default=0.0),
            "experiments": len(recoveries),
            "violations": len(broken),
            "seeds": len(seeds),
            "broken": broken[:20],
        },
        "peers": {},
        "ratio": round(p95 / TARGET_S, 3),
        "target": {"recovery_p95_s": TARGET_S, "violations": 0},
        "ok": p95 <= TARGET_S and not broken and bool(recoveries),
    }


def one(made: Arena, folder: Path, seed: int) -> tuple[list[float], list[str]]:
    """(seconds of recovery, violations) of one seed."""
    blow = draw(seed)
    print(f"# seed {seed}: {blow} at {', '.join(blow.phases)} + {blow.moment} s", file=sys.stderr, flush=True)
    try:
        outcome: Outcome = asyncio.run(Round(made.chaos, made.gate, folder).run(blow))
    except AssertionError as error:
        return [], [f"seed {seed}: {error}"]
    found = [f"seed {seed}: {violation}" for violation in violations(outcome.evidence)]
    print(f"#   {outcome.recovery}{''.join(chr(10) + '#   ' + each for each in found)}", file=sys.stderr, flush=True)
    return list(outcome.recovery.values()), found


def chosen(text: str) -> list[int]:
    """3,5,8 or 0-19 or 7."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def percentile(values: list[float], share: float) -> float:
    """The least value that so many are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
