"""500 experiments of 2 nodes at once on the fake cloud: what the provisioner's work costs a node, and what it calls.

A real bus (writing synchronously), the provisioner in this process with the provider's own client library over HTTP.
In another process the fake cloud, which refuses what is above the provider's rates (by the minute and the group of
methods; ten bulkInsert at once), and scripted agents in place of 1,000 real VMs, which 2 cores cannot hold: each
trades its token over the bus, says hello, reports every 3 s and what a job would. Machines take 4 s to be made and 3 s
to go.

`own_ms` is, as in `queue`, the CPU time a node of what handles, schedules and keeps the machines, with the calls of the
client library (its threads). `process_ms` is all CPU time of this process, bus client, inbox, outbox and database
included, from the first experiment until nothing is left.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

EXPERIMENTS = int(os.environ.get("INCL_BENCH_EXPERIMENTS", "500"))
NODES = 2
TARGET_MS = 20.0
_DEADLINE_S = 540.0
_LOOK_S = 1.0
_PARTS = ("requests", "reports", "events", "reconcile", "cloud")
_CALLS = "compute"
"""How the names of the threads begin in which the client library is called."""


def bench() -> dict[str, Any]:
    """One run."""
    with tempfile.TemporaryDirectory() as folder:
        ours = asyncio.run(_drive(Path(folder)))
    nothing = ("lost", "refused", "vms_left", "disks_left", "rows_left")
    return {
        "name": "gang",
        "unit": "ms of CPU a node, calls, machines",
        "ours": ours,
        "peers": {},
        "ratio": round(ours["own_ms"] / TARGET_MS, 3),
        "target": {"own_ms": TARGET_MS, **dict.fromkeys(nothing, 0)},
        "ok": ours["own_ms"] <= TARGET_MS and not any(ours[each] for each in nothing),
    }


async def _drive(folder: Path) -> dict[str, Any]:
    from incl_shared.testing.nats import NatsServer, apply_topology

    server = NatsServer(folder / "nats")
    await asyncio.to_thread(server.start)
    try:
        await apply_topology(server.settings("topology"))
        script = Path(__file__).parent / "support" / "gang_part.py"
        part = await asyncio.create_subprocess_exec(
            sys.executable, str(script), server.settings("part").urls[0], str(EXPERIMENTS), str(NODES),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            return await _provision(folder, server, part)
        finally:
            if part.returncode is None:
                part.terminate()
            await part.wait()
    finally:
        await asyncio.to_thread(server.stop)


async def _provision(folder: Path, server: Any, part: asyncio.subprocess.Process) -> dict[str, Any]:
    from incl_provisioner.app import create_app
    from incl_provisioner.settings import CloudOptions, ProvisionerSettings

    assert part.stdout is not None
    options = CloudOptions(
        project="fake-project", endpoint=json.loads(await part.stdout.readline())["url"],
        agent_url="http://127.0.0.1:1/agent.tar.gz", agent_sha256="0" * 64, enroll_url="http://127.0.0.1:1/enroll",
    )  # fmt: skip
    url = f"sqlite:///{folder / 'provisioner.db'}"
    app = create_app(ProvisionerSettings(database_url=url, bus=server.settings("provisioner"), cloud=options))
    await app.start()
    try:
        while _value(app, "incl_provisioner_cloud_rounds_total", outcome="done") < 1:
            await asyncio.sleep(0.1)  # the library is imported
        return await _measure(app, part)
    finally:
        await app.stop()


async def _measure(app: Any, part: asyncio.subprocess.Process) -> dict[str, Any]:
    from incl_provisioner import store_gangs

    process, started = psutil.Process(), time.perf_counter()
    cpu, finished_s, said, rows = sum(process.cpu_times()[:2]), 0.0, await _ask(part, first=True), EXPERIMENTS
    while time.perf_counter() - started < _DEADLINE_S:
        await asyncio.sleep(_LOOK_S)
        said = await _ask(part)
        if said["ended"] >= EXPERIMENTS:
            finished_s = finished_s or time.perf_counter() - started
            rows = len(await app.database.read(store_gangs.live))
            if not rows and not said["vms"]:
                break
    used, nodes = sum(process.cpu_times()[:2]) - cpu, EXPERIMENTS * NODES
    parts = {part: _value(app, "incl_provisioner_own_seconds_total", part=part) for part in _PARTS}
    parts["calls"] = _calls_s(process)
    return {
        "own_ms": round(sum(parts.values()) / nodes * 1000, 2),
        "process_ms": round(used / nodes * 1000, 2),
        **{f"{part}_ms": round(value / nodes * 1000, 2) for part, value in parts.items()},
        "finished_s": round(finished_s, 1),
        "empty_s": round(time.perf_counter() - started, 1),
        "lost": EXPERIMENTS - said["finished"],
        "most_vms": said["most_vms"],
        "vms_left": said["vms"],
        "disks_left": said["disks"],
        "rows_left": rows,
        "calls": said["calls"],
        "calls_per_s_peak": said["peak"],
        "refused": said["refused"],
        "load": round(os.getloadavg()[0], 1),
    }


async def _ask(part: asyncio.subprocess.Process, *, first: bool = False) -> dict[str, Any]:
    assert part.stdin is not None
    assert part.stdout is not None
    part.stdin.write(b"\n\n" if first else b"\n")
    line = await part.stdout.readline()
    if not line:
        raise RuntimeError("the process of the cloud has ended")
    found: dict[str, Any] = json.loads(line)
    return found


def _calls_s(process: psutil.Process) -> float:
    ours = {each.native_id for each in threading.enumerate() if each.name.startswith(_CALLS)}
    return float(sum(each.user_time + each.system_time for each in process.threads() if each.id in ours))


def _value(app: Any, name: str, **labels: str) -> float:
    value: float | None = app.bus.metrics.registry.get_sample_value(name, labels)
    return value or 0.0
