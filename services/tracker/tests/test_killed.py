"""A tracker that is killed in the middle of storing: what it had committed is there, the rest comes again."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from typing import Any

import msgspec
import numpy as np
import sqlalchemy as sa

from incl_shared import subjects
from incl_shared.bus.delivery import Delivery
from incl_shared.db import Database
from incl_shared.ids import new_id
from incl_shared.subjects import Origin
from incl_shared.telemetry.wire import BATCH_VERSION, Group, MetricBatch
from incl_tracker import store_pieces
from incl_tracker import tables as t
from incl_tracker.domain.samples import joined
from incl_tracker.handlers import Handlers
from incl_tracker.store_pieces import GREATEST, LEAST

METRICS = ("a", "b", "c")
RECORDS = 12_000


class Nobody:
    """An audience that listens to nothing."""

    def changed(self, project: str, experiment: str) -> None: ...

    def lines(self, *_: object) -> None: ...

    def points(self, *_: object) -> None: ...

    def stored(self, origin: Origin, stream: str, writer: str, watermark: int) -> None: ...


def truth(number: int) -> np.ndarray[Any, Any]:
    """The values of an experiment: (records, metrics)."""
    return np.random.default_rng(number).standard_normal((RECORDS, len(METRICS)))


def deliveries(experiments: list[str], seed: int) -> list[Delivery]:
    """All that their writers wrote, cut as it pleases, in some order."""
    chance = random.Random(seed)
    made = []
    for number, experiment in enumerate(experiments):
        values, first = truth(number), 1
        while first <= RECORDS:
            count = min(chance.choice([3, 40, 300, 2_500]), RECORDS - first + 1)
            steps = np.arange(first, first + count)
            cut = values[first - 1 : first - 1 + count]
            group = Group(list(METRICS), steps.tobytes(), (steps / 8).tobytes(), cut.tobytes())
            made.append((experiment, MetricBatch(BATCH_VERSION, "w", first, count, [group], [])))
            first += count
    chance.shuffle(made)
    return [
        Delivery(
            subjects.metrics("default", experiment, 1, 0), msgspec.msgpack.encode(batch), {}, str(place), "", 1.0, 0,
            "TEST", place, 1, None,
        )
        for place, (experiment, batch) in enumerate(made, 1)
    ]  # fmt: skip


async def store(url: str, experiments: list[str], seed: int) -> None:
    """Store all of it, a few batches a transaction; a line is printed for each."""
    database = Database(url)
    await database.start()
    handlers = Handlers(Nobody(), settle_after_s=60.0)
    every = deliveries(experiments, seed)
    for begin in range(0, len(every), 2):
        await database.write(lambda tx, begin=begin: handlers.metric_batches(tx, every[begin : begin + 2]))  # type: ignore[misc]
        print(begin, flush=True)
    await database.stop()


def killed(url: str, experiments: list[str], seed: int) -> None:
    """A process that stores, and is killed after some transactions."""
    command = [sys.executable, __file__, url, str(seed), *experiments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(2 + 4 * seed):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()


def found(connection: sa.Connection, experiment: str, metric: str) -> np.ndarray[Any, Any]:
    """The values of a metric by step, every point that is there."""
    pieces = store_pieces.pieces(connection, experiment, metric, 0, LEAST, GREATEST)
    parts = [samples for _, samples, _ in store_pieces.raw(connection, pieces.heads)]
    samples = joined([*parts, *(tail.samples for tail in pieces.tails())]).ordered()
    assert samples.steps.tolist() == list(range(1, len(samples) + 1))
    return samples.values


async def test_a_tracker_that_is_killed_loses_and_doubles_nothing(lite: Any) -> None:
    experiments = [new_id() for _ in range(3)]
    url = lite.database.url
    for seed in range(1, 4):
        await asyncio.to_thread(killed, url, experiments, seed)
    some = await lite.read(lambda c: c.execute(sa.select(sa.func.sum(t.experiments.c.points))).scalar())
    assert 0 < some < len(experiments) * RECORDS * len(METRICS)
    await store(url, experiments, 9)
    for number, experiment in enumerate(experiments):
        values = truth(number)
        for place, metric in enumerate(METRICS):
            there = await lite.read(lambda c, e=experiment, m=metric: found(c, e, m))
            assert np.array_equal(there, values[:, place])
        c = t.metrics.c
        query = sa.select(c.points, c.last_step, c.minimum, c.maximum).where(c.experiment == experiment)
        query = query.order_by(c.metric)
        rows = await lite.read(lambda connection, q=query: connection.execute(q).all())
        assert [tuple(row) for row in rows] == [
            (RECORDS, RECORDS, values[:, place].min(), values[:, place].max()) for place in range(len(METRICS))
        ]


if __name__ == "__main__":
    asyncio.run(store(sys.argv[1], sys.argv[3:], int(sys.argv[2])))
