"""A job that prints at 100 MB a minute: does it run slower under the platform than with its output in a file?

The same script, the same work, run in turn: bare (output to a file on the same disk) and as an experiment, whose
output the shim writes and the agent ships while it runs. Measured inside the script, from its first to its last line.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from incl_local.testing import Home

LINES = int(os.environ.get("INCL_BENCH_LINES", "500000"))
ROUNDS, TARGET = 3, 1.1
SCRIPT = f"""
import sys, time
began, x = time.perf_counter(), 1.0
for i in range({LINES}):
    for _ in range(600):
        x = x * 1.0000001 + 0.5
    print(f"{{i:9d}} loss={{x % 1:.12f}} " + "x" * 68)
sys.stdout.flush()
import json, os
with open(sys.argv[1], "w") as out:
    json.dump(time.perf_counter() - began, out)
"""


def bench() -> dict[str, Any]:
    """Medians of seconds."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        script = Path(folder) / "work" / "talk.py"
        script.parent.mkdir()
        script.write_text(SCRIPT)
        started = home.incl("up", "--detach", timeout=90)
        assert started.code == 0, started.err
        try:
            pairs = [(_bare(folder, script), _ours(home, folder, script)) for _ in range(ROUNDS)]
            view = home.show()
        finally:
            home.incl("down")
    bare, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = ours / bare
    return {
        "name": "output",
        "unit": "s",
        "ours": {"job_s": round(ours, 2), "lines": view["lines"], "gaps": view["gaps"]},
        "peers": {"output in a file": {"job_s": round(bare, 2), "mb_per_min": round(LINES * 102 / 1e6 / bare * 60)}},
        "ratio": round(ratio, 3),
        "target": {"ratio": TARGET, "gaps": 0},
        "ok": ratio <= TARGET and view["gaps"] == 0 and view["lines"] >= LINES,
    }


def _bare(folder: str, script: Path) -> float:
    said = Path(folder) / "bare.json"
    with (Path(folder) / "bare.log").open("wb") as out:
        subprocess.run([sys.executable, str(script), str(said)], stdout=out, check=True)
    return float(json.loads(said.read_text()))


def _ours(home: Home, folder: str, script: Path) -> float:
    said = Path(folder) / f"ours-{time.monotonic_ns()}.json"
    run = home.incl("run", "--detach", "--", sys.executable, "talk.py", str(said), cwd=script.parent)
    assert run.code == 0, run.err
    home.until("@last", ["finished", "failed"], timeout=600)
    view = home.until("@last", ["finished"], timeout=5)
    deadline = time.monotonic() + 120
    while not view["settled"] and time.monotonic() < deadline:
        view = home.show()
    return float(json.loads(said.read_text()))
