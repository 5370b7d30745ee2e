"""One long curve onto the bus, batch by batch as a shipper sends it, without spool files. Run in a process."""

from __future__ import annotations

import asyncio
import time

import numpy as np

from incl_shared import subjects
from incl_shared.bus.client import BusClient
from incl_shared.events.experiments import RunEnded, RunStarted, WriterCount
from incl_shared.ids import job_id
from incl_shared.settings import BusSettings
from incl_shared.states import ExperimentState
from incl_shared.telemetry.batcher import MAX_RECORDS, encode
from incl_shared.telemetry.wire import BATCH_VERSION, Group, MetricBatch, message_id

PROJECT, USER, WRITER = "default", "ann", "p1-0123456789"
START, SPACING_S = 1_700_000_000.0, 0.007
_IN_FLIGHT = 8


def feed(bus: str, experiment: str, points: int) -> float:
    """A run of one metric, "loss": it falls, with noise of whole mantissas, a spike and a NaN. Returns seconds."""
    began = time.monotonic()
    asyncio.run(_feed(bus, experiment, points))
    return time.monotonic() - began


async def _feed(bus: str, experiment: str, points: int) -> None:
    gate, chance = asyncio.Semaphore(_IN_FLIGHT), np.random.default_rng(7)
    subject, job = subjects.metrics(PROJECT, experiment, 1, 0), job_id(experiment, 1, 0)
    async with await BusClient.connect(BusSettings(urls=(bus,), name="feed")) as client, asyncio.TaskGroup() as tasks:
        begin = RunStarted(experiment=experiment, name=f"curve-{points}", started=START)
        await client.publish_event(begin, project=PROJECT, user=USER, event_id=f"{experiment}-started")

        async def send(first: int, payload: bytes, count: int) -> None:
            try:
                identifier = message_id(job, "metrics", WRITER, first, count)
                await client.publish_confirmed(subject, payload, message_id=identifier, timeout=120)
            finally:
                gate.release()

        for low in range(0, points, MAX_RECORDS):
            count = min(MAX_RECORDS, points - low)
            await gate.acquire()
            tasks.create_task(send(low + 1, _batch(low, count, chance), count))
        for _ in range(_IN_FLIGHT):
            await gate.acquire()
        writer = WriterCount(writer=WRITER, records=points, stream="metrics")
        end = RunEnded(experiment=experiment, state=ExperimentState.FINISHED, ended=START + 1e6, writers=(writer,))
        await client.publish_event(end, project=PROJECT, user=USER, event_id=f"{experiment}-ended")


def _batch(low: int, count: int, chance: np.random.Generator) -> bytes:
    steps = np.arange(low, low + count, dtype="<i8")
    times = START + steps * SPACING_S + chance.random(count) * 1e-4
    values = 1000.0 / (steps + 1000) + 0.1 * chance.random(count)
    if low == 0:
        values[count // 2], values[count // 3] = 5.0, np.nan
    group = Group(["loss"], steps.tobytes(), times.astype("<f8").tobytes(), values.astype("<f8").tobytes())
    return encode(MetricBatch(BATCH_VERSION, WRITER, low + 1, count, [group], []))
