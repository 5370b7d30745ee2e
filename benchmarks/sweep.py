"""Sweeps without machines: what a trial costs the service, at 1,000 at once, and what others wait beside that.

A real bus (writing synchronously), the service in this process with its worker processes, scripted runs. Sweeps of 12
trials of one user, each trial over as soon as it comes: one after the other alone (`alone_s`, the first one, which
starts a process, left out), and beside sweeps of another user with 1,000 trials at once. `paced`: those take 30 s each,
1,500 trials, so that the two cores are not the limit. `full`: they are over as soon as they come, too, and the cores
are the limit: 2,000 trials, or 10,000 with FULL=1. Median, 90 % and worst. `service_ms` is all CPU time of this process
a trial (the scripted runs are in it), `propose_ms` that of the processes that propose, both of `full`.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from support.figures import percentile, short

PARALLEL, SMALL, ALONE = 1_000, 12, 7
PACED, PACED_S = 1_500, 30.0
TRIALS = 10_000 if os.environ.get("FULL") else 2_000
TARGET_MS, TARGET_RATIO = 25.0, 2.0
_DEADLINE_S = 3_000.0


def bench() -> dict[str, Any]:
    """One run."""
    with tempfile.TemporaryDirectory() as folder:
        ours = asyncio.run(_drive(Path(folder)))
    ok = ours["lost"] == 0 and ours["service_ms"] <= TARGET_MS and ours["paced"]["ratio"] <= TARGET_RATIO
    return {
        "name": "sweep",
        "unit": "ms of CPU a trial, seconds, trials",
        "ours": ours,
        "peers": {},
        "ratio": round(ours["service_ms"] / TARGET_MS, 3),
        "target": {"service_ms": TARGET_MS, "paced_ratio": TARGET_RATIO, "lost": 0},
        "ok": ok,
    }


@dataclass
class _Script:
    """Ends bob's trials after a while, others at once."""

    runs: Any = None
    seconds: float = 0.0

    def __call__(self, event: Any) -> Any:
        from incl_hpo.testing_runs import quadratic

        if not self.seconds or self.runs.askers[event.experiment].user != "bob":
            return quadratic(event)
        loop = asyncio.get_running_loop()
        loop.call_later(self.seconds, lambda: self.runs.end_soon(event.experiment, quadratic(event)))
        return None


async def _drive(folder: Path) -> dict[str, Any]:
    script = _Script()
    async with served(folder, script) as (client, app, runs):
        script.runs = runs
        return await _measure(client, app, script)


@asynccontextmanager
async def served(folder: Path, script: Any) -> AsyncIterator[tuple[Any, Any, Any]]:
    """(client, service, runs) on a bus of their own."""
    from incl_hpo.app import create_app
    from incl_hpo.settings import HpoSettings
    from incl_hpo.testing_runs import ScriptedRuns
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
            runs = ScriptedRuns(client, tracker, script)
            for part in (tracker, runs, app):
                await part.start()
            try:
                yield client, app, runs
            finally:
                for part in (app, runs, tracker):
                    await part.stop()
    finally:
        await asyncio.to_thread(server.stop)


async def _measure(client: Any, app: Any, script: _Script) -> dict[str, Any]:
    taken = [await _small(client) for _ in range(ALONE + 1)][1:]
    alone = percentile(taken, 0.5)
    script.seconds = PACED_S
    paced, asked = await _beside(client, PACED), ALONE + 1
    script.seconds = 0.0
    before, began = _cpu(app), time.perf_counter()
    full = await _beside(client, TRIALS)
    took, after = time.perf_counter() - began, _cpu(app)
    asked += len(paced) + len(full)
    counts = [await _complete(client, user) for user in ("ann", "bob")]
    return {
        "alone_s": short(alone, 3),
        "paced": _told(paced, alone),
        "full": _told(full, alone),
        "trials": TRIALS,
        "took_s": short(took, 4),
        "service_ms": short((after[0] - before[0]) / (TRIALS + SMALL * len(full)) * 1000, 3),
        "propose_ms": short((after[1] - before[1]) / (TRIALS + SMALL * len(full)) * 1000, 3),
        "memory_mb": short(psutil.Process().memory_info().rss / 1e6, 3),
        "lost": SMALL * asked + PACED + TRIALS - sum(counts),
    }


def _told(taken: list[float], alone: float) -> dict[str, Any]:
    middle = percentile(taken, 0.5)
    return {
        "s": short(middle, 3),
        "p90_s": short(percentile(taken, 0.9), 3),
        "worst_s": short(max(taken), 3),
        "ratio": short(middle / alone, 3),
        "sweeps": len(taken),
    }


async def _beside(client: Any, trials: int) -> list[float]:
    """Seconds of each small sweep of ann's, one after the other, while one of bob's goes on."""
    large = asyncio.create_task(_timed(client, "bob", parallel=PARALLEL, budget={"trials": trials}))
    taken: list[float] = []
    while not large.done():
        taken.append(await _small(client))
        await asyncio.wait((large,), timeout=0.5)
    await large
    return taken


async def _small(client: Any) -> float:
    return await _timed(client, "ann", parallel=4, budget={"trials": SMALL})


def _cpu(app: Any) -> tuple[float, float]:
    """Seconds of this process, and of those that propose."""
    workers = [psutil.Process(pid).cpu_times() for pid in app.pool.processes]
    own = psutil.Process().cpu_times()
    return own.user + own.system, sum(times.user + times.system for times in workers)


async def _timed(client: Any, user: str, **changes: Any) -> float:
    """Seconds from the submit of a sweep to its end."""
    from incl_hpo.testing_runs import sweep_spec
    from incl_shared.events import SweepSubmitted
    from incl_shared.ids import new_id

    return await until_over(client, user, SweepSubmitted(sweep=new_id(), spec=sweep_spec(**changes)))


async def until_over(client: Any, user: str, event: Any) -> float:
    """Seconds from a request about a sweep to its (next) end."""
    from incl_shared.events import SweepFinished

    over = asyncio.Event()

    async def heard(subject: str, payload: bytes, headers: Any) -> None:
        if headers["ce-type"] == SweepFinished.type_name():
            over.set()

    subscription = await client.subscribe(f"incl.event.default.sweep.{event.sweep}", heard)
    began = time.perf_counter()
    await client.publish_event(event, project="default", user=user)
    async with asyncio.timeout(_DEADLINE_S):
        await over.wait()
    took = time.perf_counter() - began
    await subscription.unsubscribe()
    return took


async def _complete(client: Any, user: str) -> int:
    """How many trials of this user's sweeps have a value."""
    from incl_shared.events import TrialState
    from incl_shared.queries.hpo import ListSweeps

    found, cursor = 0, None
    while True:
        page = await client.ask(ListSweeps(cursor=cursor, limit=50), project="default", user=user, timeout=60)
        found += sum(row.counts.get(TrialState.COMPLETE, 0) for row in page.rows if row.user == user)
        cursor = page.cursor
        if cursor is None:
            return found
