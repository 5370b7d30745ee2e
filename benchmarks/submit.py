"""Enter pressed to the first line of user code, with the platform up: `incl run -- python first.py`.

The file is another one each time. The clock starts before the command line's process does,
and stops in the first statement of the user's script.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from incl_local.testing import Home

RUNS = 15
TARGET_S = 0.7
SCRIPT = "import time; now = time.time()  # run {run}\nopen({path!r}, 'w').write(repr(now))\n"


def bench() -> dict[str, Any]:
    """Median of RUNS submits, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        work = home.folder / "work"
        work.mkdir()
        started = home.incl("up", "--detach", timeout=90)
        assert started.code == 0, started.err
        try:
            seconds = [_once(home, work, run) for run in range(RUNS + 2)][2:]
        finally:
            home.incl("down")
    sys.stderr.write(f"# seconds, sorted: {' '.join(f'{s:.3f}' for s in sorted(seconds))}\n")
    median = statistics.median(seconds)
    return {
        "name": "submit",
        "unit": "s",
        "ours": round(median, 3),
        "peers": {},
        "ratio": round(median / TARGET_S, 3),
        "target": TARGET_S,
        "ok": median <= TARGET_S,
    }


def _once(home: Home, work: Path, run: int) -> float:
    mark = home.folder / f"mark-{run}"
    (work / "first.py").write_text(SCRIPT.format(run=run, path=str(mark)))
    began = time.time()
    done = home.incl("run", "--", "python", "first.py", cwd=work)
    assert done.code == 0, done.err
    return float(mark.read_text()) - began
