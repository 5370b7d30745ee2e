"""2,000 real jobs (`sleep 0.1`, 0.05 cores) through the whole platform: shims, agent, bus, tracker, registry.

What `queue` measures of the provisioner alone, this one shows for everything: every experiment finishes and settles,
nothing is lost, and the memory of the one process stays flat. Submitted over the bus, 64 at once, by this process.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil

from incl_local.layout import Layout
from incl_local.place import PROJECT, Place, local_user
from incl_local.running import find
from incl_local.testing import Home
from incl_shared.bus.client import BusClient
from incl_shared.events.experiments import ExperimentSubmitted
from incl_shared.ids import new_id
from incl_shared.queries.tracker import GetExperiment
from incl_shared.spec import ExperimentSpec, Resources

JOBS, CPU = 2_000, 0.05
TARGET_MS, GROWTH_MB = 10.0, 60.0
AT_ONCE, DEADLINE_S = 64, 900.0


def bench() -> dict[str, Any]:
    """One run."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        started = home.incl("up", "--detach", timeout=90)
        assert started.code == 0, started.err
        try:
            running = find(Layout(home.data))
            ours = asyncio.run(_measure(running.place, running.identity.pid))
        finally:
            home.incl("down")
    ok = ours["own_ms"] <= TARGET_MS and ours["lost"] == 0 and ours["gaps"] == 0 and ours["growth_mb"] <= GROWTH_MB
    return {
        "name": "fleet",
        "unit": "ms of the provisioner a job, jobs/s, MB",
        "ours": ours,
        "peers": {},
        "ratio": round(ours["own_ms"] / TARGET_MS, 3),
        "target": {"own_ms": TARGET_MS, "growth_mb": GROWTH_MB, "lost": 0, "gaps": 0},
        "ok": ok,
    }


async def _measure(place: Place, pid: int) -> dict[str, Any]:
    process = psutil.Process(pid)
    spec = ExperimentSpec(command=["sleep", "0.1"], resources=Resources(cpu=CPU), name="fleet")
    ids = [new_id() for _ in range(JOBS)]
    began, memory = time.monotonic(), []
    async with await BusClient.connect(place.bus("user")) as client:
        gate = asyncio.Semaphore(AT_ONCE)

        async def submit(identifier: str) -> None:
            async with gate:
                event = ExperimentSubmitted(experiment=identifier, spec=spec)
                await client.publish_event(event, project=PROJECT, user=local_user(), event_id=identifier, timeout=60)

        submitting = asyncio.gather(*(submit(identifier) for identifier in ids))
        done = 0.0
        while done < JOBS and time.monotonic() - began < DEADLINE_S:
            await asyncio.sleep(1.0)
            done = _sample(place, "provisioner", r'incl_provisioner_finished_total\{state="finished"\} ([\d.e+]+)')
            memory.append((done, process.memory_info().rss / 1e6))
        seconds = time.monotonic() - began
        await submitting
        lost, gaps = await _check(client, ids)
    settled = [size for count, size in memory if count >= JOBS / 4]
    own = sum(_samples(place, "provisioner", r"incl_provisioner_own_seconds_total\{[^}]*\} ([\d.e+-]+)"))
    sys.stderr.write(f"# memory, MB: {' '.join(f'{size:.0f}' for _, size in memory[:: max(1, len(memory) // 20)])}\n")
    return {
        "own_ms": round(own / JOBS * 1000, 2),
        "jobs_per_s": round(JOBS / seconds, 1),
        "growth_mb": round(max(settled) - settled[0], 1) if settled else 0.0,
        "lost": lost,
        "gaps": gaps,
    }


async def _check(client: BusClient, ids: list[str]) -> tuple[int, int]:
    """(experiments that did not finish and settle, gaps), asked one by one of the tracker."""
    lost = gaps = 0
    deadline = time.monotonic() + 120
    for identifier in ids:
        while True:
            view = await client.ask(GetExperiment(ref=identifier), project=PROJECT, user=local_user(), timeout=30)
            if (view.row.state == "finished" and view.settled) or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.05)
        lost += not (view.row.state == "finished" and view.settled)
        gaps += view.gaps
    return lost, gaps


def _samples(place: Place, service: str, pattern: str) -> list[float]:
    with urllib.request.urlopen(f"{place.ops_url(service)}/{service}/metrics", timeout=10) as answer:
        return [float(value) for value in re.findall(pattern, answer.read().decode())]


def _sample(place: Place, service: str, pattern: str) -> float:
    return next(iter(_samples(place, service, pattern)), 0.0)
