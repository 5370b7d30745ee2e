"""One call of incl.log with ten scalars beside a bare JSON line with write(), and what `import incl` costs.

Both write the same content (time, step, values) to a file of the same folder, call by call in turn, so that a busy
machine is busy for both. The bare line is json.dumps and an unbuffered write, which is the least that keeps every
record when the process is killed; what it lacks (types and names checked, a file a process, a full disk survived) it
is not charged for.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

CALLS, PAUSED_CALLS, PAUSE_S = 20_000, 1_000, 0.002
IMPORTS = 31
TARGETS = {"ratio_tight": 1.3, "ratio_paused": 1.3, "import_ms": 30.0}

Log = Callable[[dict[str, float], int], None]


def bench() -> dict[str, Any]:
    """Medians: microseconds a call, milliseconds an import."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["INCL_SPOOL_DIR"] = folder
        import incl

        with (Path(folder) / "bare.txt").open("ab", buffering=0) as file:
            sides: dict[str, Log] = {"incl": incl.log, "bare": _bare(file)}
            tight = _measure(sides, CALLS, 0.0)
            paused = _measure(sides, PAUSED_CALLS, PAUSE_S)
        records = sum(1 for path in Path(folder).glob("*.jsonl") for _ in path.open("rb"))
    assert records == CALLS + PAUSED_CALLS
    measured = {
        "tight_us": round(tight["incl"], 2),
        "paused_us": round(paused["incl"], 2),
        "ratio_tight": round(tight["incl"] / tight["bare"], 3),
        "ratio_paused": round(paused["incl"] / paused["bare"], 3),
        "import_ms": round(_import_ms(), 1),
    }
    worst = max(measured[name] / target for name, target in TARGETS.items())
    return {
        "name": "log",
        "unit": "us, ms",
        "ours": measured,
        "peers": {"bare json line": {"tight_us": round(tight["bare"], 2), "paused_us": round(paused["bare"], 2)}},
        "ratio": round(worst, 3),
        "target": TARGETS,
        "ok": worst <= 1,
    }


def _bare(file: BinaryIO) -> Log:
    def log(values: dict[str, float], step: int) -> None:
        file.write((json.dumps({"k": "m", "t": time.time(), "s": step, "v": values}) + "\n").encode())

    return log


def _measure(sides: dict[str, Log], calls: int, pause_s: float) -> dict[str, float]:
    """Microseconds: the median over all calls of each side, the sides in turn."""
    chance = random.Random(7)
    taken: dict[str, list[int]] = {name: [] for name in sides}
    for step in range(calls):
        for name, log in sorted(sides.items(), reverse=bool(step % 2)):
            values = {f"metric/{i}": chance.random() for i in range(10)}
            if pause_s:
                time.sleep(pause_s)
            start = time.perf_counter_ns()
            log(values, step)
            taken[name].append(time.perf_counter_ns() - start)
    return {name: statistics.median(times) / 1000 for name, times in taken.items()}


def _import_ms() -> float:
    """The median of `import incl` inside a fresh interpreter."""
    script = "import time; t = time.perf_counter(); import incl; print(time.perf_counter() - t)"
    times = [
        float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
        for _ in range(IMPORTS)
    ]
    return statistics.median(times) * 1000
