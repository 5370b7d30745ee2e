"""One experiment logs a million points a second; how late do another's metrics come?

Both run on one machine with `incl up`. The quiet one logs the time of day five times a second; how late a value is
shows when the live message that carries it arrives. The loud one is a few processes that append records of 100
scalars to their spools as fast as is asked for; what the machine cannot take waits in the spools, on the disk.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from incl_local.layout import Layout
from incl_local.place import PROJECT, Place, local_user
from incl_local.running import find
from incl_local.testing import Home
from incl_shared import subjects
from incl_shared.bus.client import BusClient
from incl_shared.queries.tracker import GetExperiment

SECONDS, RATE, WIDTH = 30.0, 1_000_000, 100
ALONE_S, TARGET_S = 10.0, 2.0
QUIET = f"""
import time, incl
end = time.time() + {SECONDS + ALONE_S + 15}
while time.time() < end:
    incl.log({{"now": time.time()}})
    time.sleep(0.2)
"""
LOUD = f"""
import math, time, incl
values = {{f"metric/{{i}}": math.sin(i) for i in range({WIDTH})}}
began, sent, most = time.time(), 0, {int(RATE * SECONDS) // WIDTH}
while sent < most:
    due = min(most, int((time.time() - began) * {RATE // WIDTH}) + 1)
    if sent >= due:
        time.sleep(0.002)
    while sent < due:
        values["metric/0"] = sent * 0.001
        incl.log(values, step=sent)
        sent += 1
print("took", time.time() - began)
"""


def bench() -> dict[str, Any]:
    """One run."""
    with tempfile.TemporaryDirectory() as folder:
        home, work = Home(Path(folder) / "home"), Path(folder) / "work"
        work.mkdir()
        started = home.incl("up", "--detach", timeout=90)
        assert started.code == 0, started.err
        try:
            running = find(Layout(home.data))
            ours = asyncio.run(_measure(home, work, running.place, running.identity.pid))
        finally:
            home.incl("down")
    return {
        "name": "fair",
        "unit": "s",
        "ours": ours,
        "peers": {"alone": {"late_worst_s": ours.pop("alone_worst_s")}},
        "ratio": round(ours["late_worst_s"] / TARGET_S, 3),
        "target": {"late_worst_s": TARGET_S, "gaps": 0},
        "ok": ours["late_worst_s"] <= TARGET_S and ours["gaps"] == 0,
    }


async def _measure(home: Home, work: Path, place: Place, pid: int) -> dict[str, Any]:
    late: list[tuple[float, float]] = []

    async def hear(subject: str, payload: bytes, headers: Any) -> None:
        said = json.loads(payload)
        if said["kind"] == "metrics" and "now" in said["values"]:
            late.append((time.time(), time.time() - said["values"]["now"][1]))

    async with await BusClient.connect(place.bus("user")) as client:
        quiet = await _submit(home, work, "quiet", "0.2", QUIET)
        await client.subscribe(subjects.live(PROJECT, quiet), hear)
        await _until(lambda: bool(late), 30)
        began = time.time()
        await asyncio.sleep(ALONE_S)
        flood = time.time()
        loud = await _submit(home, work, "loud", "1", LOUD)
        memory, peak = psutil.Process(pid), 0
        while time.time() < flood + SECONDS + 5:
            await asyncio.sleep(0.5)
            peak = max(peak, memory.memory_info().rss)
        during = [seconds for at, seconds in late if at > flood + 2]
        stored = (await _view(client, loud)).points
        ended = time.monotonic() + 240
        while not (view := await _view(client, loud)).settled and time.monotonic() < ended:
            await asyncio.sleep(0.5)
        return {
            "late_worst_s": round(max(during), 3),
            "late_median_s": round(statistics.median(during), 3),
            "alone_worst_s": round(max(seconds for at, seconds in late if began < at < flood), 3),
            "heard": len(during),
            "loud_points": view.points,
            "loud_stored_meanwhile": stored,
            "all_stored_after_s": round(time.time() - flood, 1),
            "gaps": view.gaps if view.settled else -1,
            "peak_mb": round(peak / 1e6),
        }


async def _submit(home: Home, work: Path, name: str, cpu: str, script: str) -> str:
    words = ("--cpu", cpu, "--name", name, "--", sys.executable, "-c", script)
    return await asyncio.to_thread(home.submit, *words, cwd=work)


async def _view(client: BusClient, experiment: str) -> Any:
    return await client.ask(GetExperiment(ref=experiment), project=PROJECT, user=local_user(), timeout=30)


async def _until(look: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, "nothing was heard"
        await asyncio.sleep(0.05)
