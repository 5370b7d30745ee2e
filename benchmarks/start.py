"""`incl --help`, the time until the platform is ready, and the memory of all its services (proportional set size)."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from incl_local.testing import Home

HELP_RUNS, START_RUNS = 21, 5
TARGETS = {"help_ms": 120.0, "ready_s": 3.0, "memory_mb": 300.0}


def bench() -> dict[str, Any]:
    """Medians; the memory right after a small experiment."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        helps = [_help(home) for _ in range(HELP_RUNS)]
        started = [_start(home) for _ in range(START_RUNS)]
    ours = {
        "help_ms": round(statistics.median(helps) * 1000, 1),
        "ready_s": round(statistics.median(s for s, _ in started), 2),
        "memory_mb": round(max(m for _, m in started) / 1e6, 1),
    }
    worst = max(ours[name] / target for name, target in TARGETS.items())
    return {
        "name": "start",
        "unit": "ms, s, MB",
        "ours": ours,
        "peers": {},
        "ratio": round(worst, 3),
        "target": TARGETS,
        "ok": worst <= 1,
    }


def _help(home: Home) -> float:
    began = time.monotonic()
    assert home.incl("--help").code == 0
    return time.monotonic() - began


def _start(home: Home) -> tuple[float, float]:
    began = time.monotonic()
    up = home.start("up", "--json")
    assert up.stdout is not None
    json.loads(up.stdout.readline())
    seconds = time.monotonic() - began
    try:
        (home.folder / "w").mkdir(exist_ok=True)
        assert home.incl("run", "--", "python", "-c", "print(1)", cwd=home.folder / "w").code == 0
        processes = [psutil.Process(up.pid), *psutil.Process(up.pid).children(recursive=True)]
        memory = float(sum(p.memory_full_info().pss for p in processes))
        names = ", ".join(f"{p.name()} {p.memory_full_info().pss / 1e6:.0f} MB" for p in processes)
        sys.stderr.write(f"# ready in {seconds:.2f} s; {names}\n")
    finally:
        up.terminate()
        up.communicate(timeout=30)
    return seconds, memory
