"""2,000 jobs of 0.05 cores and a tenth of a second: what the provisioner's own work costs for each, none lost.

A real bus (writing synchronously), the provisioner in this process, submitter and a scripted agent in another. The
agent runs nothing: it reports what a job of a tenth of a second would. Own time is the CPU time of the threads that
handle and schedule (the counters incl_provisioner_own_seconds); `process_ms` is all CPU time of this process a job,
bus client, inbox, outbox and database included.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

JOBS, CPU, SECONDS = 2_000, 0.05, 0.1
TARGET_MS, GROWTH_MB = 10.0, 30.0
_AT_ONCE = 64
_DEADLINE_S = 600.0


def bench() -> dict[str, Any]:
    """One run."""
    with tempfile.TemporaryDirectory() as folder:
        ours = asyncio.run(_drive(Path(folder)))
    ok = ours["own_ms"] <= TARGET_MS and ours["lost"] == 0 and ours["growth_mb"] <= GROWTH_MB
    return {
        "name": "queue",
        "unit": "ms of CPU a job, MB, jobs",
        "ours": ours,
        "peers": {},
        "ratio": round(ours["own_ms"] / TARGET_MS, 3),
        "target": {"own_ms": TARGET_MS, "growth_mb": GROWTH_MB, "lost": 0},
        "ok": ok,
    }


async def _drive(folder: Path) -> dict[str, Any]:
    from incl_provisioner.app import create_app
    from incl_provisioner.settings import ProvisionerSettings
    from incl_shared.testing.nats import NatsServer, apply_topology

    server = NatsServer(folder / "nats")
    await asyncio.to_thread(server.start)
    try:
        await apply_topology(server.settings("topology"))
        url = f"sqlite:///{folder / 'provisioner.db'}"
        app = create_app(ProvisionerSettings(database_url=url, bus=server.settings("provisioner")))
        await app.start()
        try:
            return await _measure(app, server.settings("driver").urls[0])
        finally:
            await app.stop()
    finally:
        await asyncio.to_thread(server.stop)


async def _measure(app: Any, url: str) -> dict[str, Any]:
    process = psutil.Process()
    cpu, started = sum(process.cpu_times()[:2]), time.perf_counter()
    driver = await asyncio.create_subprocess_exec(sys.executable, __file__, url)
    finished, memory = 0.0, []
    waiter = asyncio.create_task(driver.wait())
    while finished < JOBS and time.perf_counter() - started < _DEADLINE_S:
        await asyncio.wait([waiter], timeout=0.25)
        finished = _value(app, "incl_provisioner_finished_total", state="finished")
        memory.append((finished, process.memory_info().rss / 1e6))
        if driver.returncode not in (None, 0):
            raise RuntimeError(f"the driver ended with {driver.returncode}")
    seconds = time.perf_counter() - started
    used = sum(process.cpu_times()[:2]) - cpu
    if driver.returncode is None:
        driver.terminate()
        await waiter
    parts = {part: _value(app, "incl_provisioner_own_seconds_total", part=part) for part in _PARTS}
    settled = [size for count, size in memory if count >= JOBS / 4]
    return {
        "own_ms": round(sum(parts.values()) / JOBS * 1000, 3),
        **{f"{part}_ms": round(value / JOBS * 1000, 3) for part, value in parts.items()},
        "process_ms": round(used / JOBS * 1000, 2),
        "jobs_per_s": round(finished / seconds, 1),
        "growth_mb": round(max(settled) - settled[0], 1) if settled else 0.0,
        "lost": JOBS - int(finished),
    }


_PARTS = ("requests", "reports", "reconcile")


def _value(app: Any, name: str, **labels: str) -> float:
    value: float | None = app.bus.metrics.registry.get_sample_value(name, labels)
    return value or 0.0


async def _driver(url: str) -> None:
    """The other process: submit everything, and be the agent."""
    from incl_provisioner.testing.agent import FakeAgent, Script
    from incl_shared.bus.client import BusClient
    from incl_shared.events.experiments import ExperimentSubmitted
    from incl_shared.ids import new_id
    from incl_shared.settings import BusSettings
    from incl_shared.spec import ExperimentSpec, Resources

    async with await BusClient.connect(BusSettings(urls=(url,), name="driver")) as client:
        agent = FakeAgent(client, cpu=2.0, script=lambda _: Script(seconds=SECONDS), beat_s=2.0)
        await agent.start()
        spec = ExperimentSpec(command=["sleep", str(SECONDS)], resources=Resources(cpu=CPU), name="queue")
        gate = asyncio.Semaphore(_AT_ONCE)

        async def submit() -> None:
            async with gate:
                event = ExperimentSubmitted(experiment=new_id(), spec=spec)
                await client.publish_event(event, project="default", user="ann", timeout=60)

        await asyncio.gather(*(submit() for _ in range(JOBS)))
        await asyncio.sleep(_DEADLINE_S)


if __name__ == "__main__":
    asyncio.run(_driver(sys.argv[1]))
