"""One call of incl.log with ten scalars beside a bare JSON line with write(), trackio, wandb, MLflow and Aim.

Each library runs in a process of its own: ours in our environment, the peers in theirs. In each of them a bare line is
measured too, call by call in turn with the library, so that a busy machine is busy for both. The bare line is
json.dumps and an unbuffered write, which is the least that keeps every record when the process is killed; what it lacks
(types and names checked, a file a process, a full disk survived) it is not charged for. incl is measured again between
every two peers (medians over these), with a run made by incl.init(): offline, and once with `incl up` and its shipper
beside the script. The peers are used as their guides begin, synchronous and local; their samplers of the machine are
off.

"Over trackio's" divides both by the bare line of their own process first, as the machine's speed may change between two
processes (trackio's thread slows the bare line of its process, which counts for trackio). The end is what a script
waits for: from finish() until its process is gone.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from support.environment import PEERS, python, say, scratch, versions
from support.figures import percentile, short
from support.worker import Worker

from incl_local.testing import Home

SMALL = os.environ.get("INCL_BENCH_SMALL") == "1"
PAUSE_S = 0.002
CALLS = {
    "incl": (6_000, 600),
    "trackio": (6_000, 600),
    "wandb": (3_000, 600),
    "aim": (2_000, 600),
    "mlflow": (200, 100),
}
"""Calls in a tight loop, and with a pause."""
LIVE_ROUNDS = 3
IMPORTS, PEER_IMPORTS = 31, 5
TARGETS = {
    "median over bare, tight": 1.3,
    "median over bare, paused": 1.3,
    "p99 over bare, tight": 4.0,
    "p99 over bare, paused": 4.0,
    "median over trackio's": 0.5,
    "p99 over trackio's": 0.5,
    "import ms": 30.0,
    "end ms": 100.0,
}

Side = dict[str, float]


def bench() -> dict[str, Any]:
    """Microseconds a call, milliseconds an import and an end."""
    interpreter = python()
    with scratch("log-") as folder:
        place = Path(folder)
        ours, peers = [_side("incl", sys.executable, place, {"INCL_MODE": "offline"})], {}
        for peer in sorted(PEERS):
            peers[peer] = _side(peer, interpreter, place, {})
            ours.append(_side("incl", sys.executable, place, {"INCL_MODE": "offline"}))
        live = _with_platform(place)
    middle = {name: short(statistics.median(side[name] for side in ours)) for name in ours[0]}
    middle["import_ms"] = short(_import_ms("incl", sys.executable, IMPORTS))
    middle |= {f"live_{name}": short(live[name]) for name in ("tight_p50", "tight_p99", "init_ms", "end_ms")}
    for peer, side in peers.items():
        side["import_ms"] = _import_ms(peer, str(interpreter), PEER_IMPORTS)
    reached = _reached(ours, middle, peers["trackio"], live)
    worst = max(reached[name] / target for name, target in TARGETS.items())
    numbers = versions()
    return {
        "name": "log",
        "unit": "us a call, ms",
        "ours": middle,
        "reached": {name: round(value, 3) for name, value in reached.items()},
        "peers": {
            peer: {"version": numbers[peer], **{name: short(value) for name, value in side.items()}}
            for peer, side in peers.items()
        },
        "ratio": round(worst, 3),
        "target": TARGETS,
        "ok": worst <= 1,
    }


def _reached(ours: list[Side], middle: Side, trackio: Side, live: Side) -> Side:
    def over_bare(kind: str, share: str) -> float:
        return statistics.median(side[f"{kind}_{share}"] / side[f"bare_{kind}_{share}"] for side in ours)

    def over_trackio(share: str) -> float:
        theirs = {kind: trackio[f"{kind}_{share}"] / trackio[f"bare_{kind}_{share}"] for kind in ("tight", "paused")}
        return max(over_bare(kind, share) / theirs[kind] for kind in theirs)

    return {
        "median over bare, tight": over_bare("tight", "p50"),
        "median over bare, paused": over_bare("paused", "p50"),
        "p99 over bare, tight": over_bare("tight", "p99"),
        "p99 over bare, paused": over_bare("paused", "p99"),
        "median over trackio's": over_trackio("p50"),
        "p99 over trackio's": over_trackio("p99"),
        "import ms": middle["import_ms"],
        "end ms": max(middle["end_ms"], live["end_ms"]),
    }


def _side(side: str, interpreter: Path | str, place: Path, env: dict[str, str]) -> Side:
    """All figures of one library, in a process that begins and ends here."""
    home = place / f"{side}-{time.monotonic_ns()}"
    home.mkdir()
    tight, paused = (max(50, count // 20) if SMALL else count for count in CALLS[side])
    worker = Worker("peers.log_sides", interpreter, home=home, env=env)
    found: Side = {"init_ms": worker.call("start", side=side, folder=str(home))}
    for kind, calls, pause, first in (("tight", tight, 0.0, 0), ("paused", paused, PAUSE_S, tight)):
        worker.call("measure", calls=max(20, calls // 20), pause_s=pause, first_step=first + 1_000_000 * (not first))
        for name, nanoseconds in worker.call("measure", calls=calls, pause_s=pause, first_step=first).items():
            prefix = "bare_" if name == "bare" else ""
            found[f"{prefix}{kind}_p50"] = statistics.median(nanoseconds) / 1000
            found[f"{prefix}{kind}_p99"] = percentile(nanoseconds, 0.99) / 1000
    found["finish_ms"] = worker.call("finish")
    found["end_ms"] = found["finish_ms"] + worker.close() * 1000
    shown = ", ".join(f"{name} {value:.1f}" for name, value in found.items())
    say(f"{side}: {shown}")
    return found


def _with_platform(place: Path) -> Side:
    """incl with a platform running: init() starts the shipper, which sends while the script logs. Medians of runs."""
    home = Home(place / "home")
    started = home.incl("up", "--detach", timeout=90)
    assert started.code == 0, started.err
    try:
        env = {name: value for name, value in home.environment.items() if name.startswith(("INCL_", "HOME"))}
        sides = [_side("incl", sys.executable, place, {**env, "INCL_MODE": "auto"}) for _ in range(LIVE_ROUNDS)]
    finally:
        home.incl("down")
    return {name: statistics.median(side[name] for side in sides) for name in sides[0]}


def _import_ms(module: str, interpreter: str, runs: int) -> float:
    """The median of the import inside a fresh interpreter."""
    script = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    times = [
        float(
            subprocess.run([interpreter, "-c", script], capture_output=True, text=True, check=True).stdout.split()[-1]
        )
        for _ in range(3 if SMALL else runs)
    ]
    return statistics.median(times) * 1000
