"""Sweeps without machines: what a trial costs the service, at 1,000 at once, and what others wait beside that.

A real bus (writing synchronously), the service in this process with its worker processes, scripted runs that end each
trial as soon as it comes. First 12 trials of one user alone, then the same beside a sweep of another one with 1,000
trials at once: 2,000 trials, or 10,000 with FULL=1. `service_ms` is all CPU time of this process a trial (the scripted
runs are in it), `propose_ms` that of the processes that propose.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from support.figures import short

PARALLEL, SMALL = 1_000, 12
TRIALS = 10_000 if os.environ.get("FULL") else 2_000
TARGET_MS = 25.0
_DEADLINE_S = 3_000.0


def bench() -> dict[str, Any]:
    """One run."""
    with tempfile.TemporaryDirectory() as folder:
        ours = asyncio.run(_drive(Path(folder)))
    ok = ours["lost"] == 0 and ours["service_ms"] <= TARGET_MS
    return {
        "name": "sweep",
        "unit": "ms of CPU a trial, seconds, trials",
        "ours": ours,
        "peers": {},
        "ratio": round(ours["service_ms"] / TARGET_MS, 3),
        "target": {"service_ms": TARGET_MS, "lost": 0},
        "ok": ok,
    }


async def _drive(folder: Path) -> dict[str, Any]:
    from incl_hpo.app import create_app
    from incl_hpo.settings import HpoSettings
    from incl_hpo.testing_runs import ScriptedRuns, quadratic
    from incl_shared.bus.client import BusClient
    from incl_shared.bus.runtime import Bus
    from incl_shared.testing.nats import NatsServer, apply_topology

    server = NatsServer(folder / "nats")
    await asyncio.to_thread(server.start)
    try:
        await apply_topology(server.settings("topology"))
        app = create_app(HpoSettings(database_url=f"sqlite:///{folder / 'hpo.db'}", bus=server.settings("hpo")))
        tracker = Bus(server.settings("tracker"), service="tracker")
        async with await BusClient.connect(server.settings("driver")) as client:
            runs = ScriptedRuns(client, tracker, quadratic)
            for part in (tracker, runs, app):
                await part.start()
            try:
                return await _measure(client, app)
            finally:
                for part in (app, runs, tracker):
                    await part.stop()
    finally:
        await asyncio.to_thread(server.stop)


async def _measure(client: Any, app: Any) -> dict[str, Any]:
    alone = await _timed(client, "ann", parallel=4, budget={"trials": SMALL})
    before, began = _cpu(app), time.perf_counter()
    large = asyncio.create_task(_timed(client, "bob", parallel=PARALLEL, budget={"trials": TRIALS}))
    await asyncio.sleep(1.0)
    beside = await _timed(client, "ann", parallel=4, budget={"trials": SMALL})
    await large
    took, after = time.perf_counter() - began, _cpu(app)
    counts = [await _complete(client, user) for user in ("ann", "bob")]
    return {
        "alone_s": short(alone, 3),
        "beside_s": short(beside, 3),
        "trials": TRIALS,
        "took_s": short(took, 4),
        "service_ms": short((after[0] - before[0]) / TRIALS * 1000, 3),
        "propose_ms": short((after[1] - before[1]) / TRIALS * 1000, 3),
        "lost": 2 * SMALL + TRIALS - sum(counts),
    }


def _cpu(app: Any) -> tuple[float, float]:
    """Seconds of this process, and of those that propose."""
    workers = [psutil.Process(pid).cpu_times() for pid in app.pool.processes]
    own = psutil.Process().cpu_times()
    return own.user + own.system, sum(times.user + times.system for times in workers)


async def _timed(client: Any, user: str, **changes: Any) -> float:
    """Seconds from the submit of a sweep to its end."""
    from incl_hpo.testing_runs import sweep_spec
    from incl_shared.events import SweepFinished, SweepSubmitted
    from incl_shared.ids import new_id

    over = asyncio.Event()
    event = SweepSubmitted(sweep=new_id(), spec=sweep_spec(**changes))

    async def heard(subject: str, payload: bytes, headers: Any) -> None:
        if headers["ce-type"] == SweepFinished.type_name():
            over.set()

    await client.subscribe(f"incl.event.default.sweep.{event.sweep}", heard)
    began = time.perf_counter()
    await client.publish_event(event, project="default", user=user)
    async with asyncio.timeout(_DEADLINE_S):
        await over.wait()
    return time.perf_counter() - began


async def _complete(client: Any, user: str) -> int:
    """How many trials of this user's sweeps have a value."""
    from incl_shared.events import TrialState
    from incl_shared.queries.hpo import ListSweeps

    rows = (await client.ask(ListSweeps(), project="default", user=user)).rows
    return sum(row.counts.get(TrialState.COMPLETE, 0) for row in rows if row.user == user)
