"""A chart of 1,000,000 points (and of 10,000,000) in 2,000 pixels, at any zoom; beside MLflow's sampled history.

The points come over a real bus into a real tracker on SQLite (and, the smaller one, on PostgreSQL), which seals them.
Then GetChart for windows drawn at random: their widths log-uniform from 1,000 points to all, their places uniform, one
in four by time; each eighth is the whole curve. "tracker" is the time in the tracker from the question's payload to the
answer's (reading, thinning, JSON), "bus" what a client waits for on this machine, its own reading of the JSON included.
MLflow: the route that its page asks, on its SQLite store with the same number of points, 2,000 results and windows
drawn in the same way, in its process, without a socket. INCL_BENCH_POINTS: fewer points, to try it.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import statistics
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal

from support.environment import cache, python, say, scratch, versions
from support.feed_part import SPACING_S, START
from support.figures import percentile, short
from support.parts import database, running_bus
from support.worker import Worker

from incl_shared.bus.client import BusClient
from incl_shared.errors import NotFoundError
from incl_shared.ids import new_id
from incl_shared.queries.tracker import GetChart, GetExperiment
from incl_shared.settings import BusSettings

POINTS = int(os.environ.get("INCL_BENCH_POINTS", "1_000_000"))
LONG = 10
PIXELS, WINDOWS, MLFLOW_WINDOWS = 2_000, 400, 24
LEAST = 1_000
PROJECT, USER = "default", "ann"
STORED_S = 600.0
TARGETS = {"p95 ms": 15.0, "p95 bytes": 60_000, "over mlflow": 100.0}

Window = tuple[int, int]


def bench() -> dict[str, Any]:
    """Milliseconds and bytes an answer."""
    ours = {"sqlite": _ours("sqlite", (POINTS, POINTS * LONG)), "postgres": _ours("postgres", (POINTS,))}
    mlflow = _mlflow()
    main = ours["sqlite"][str(POINTS)]
    over = mlflow["p95_ms"] / main["tracker_p95_ms"]
    used = {
        "p95 ms": main["tracker_p95_ms"] / TARGETS["p95 ms"],
        "p95 bytes": main["p95_bytes"] / TARGETS["p95 bytes"],
        "over mlflow": TARGETS["over mlflow"] / over,
    }
    return {
        "name": "chart",
        "unit": "ms, bytes",
        "ours": ours,
        "peers": {"mlflow history, bulk interval": {"version": versions()["mlflow"], **mlflow}},
        "over_mlflow": round(over, 1),
        "ratio": round(max(used.values()), 3),
        "target": TARGETS,
        "missed": [name for name, share in used.items() if share > 1],
        "ok": max(used.values()) <= 1,
    }


def windows(points: int, count: int) -> list[Window]:
    """Steps, both of the window; the first is the whole curve."""
    chance, found = random.Random(11), []
    for place in range(count):
        width = int(math.exp(chance.uniform(math.log(min(LEAST, points)), math.log(points)))) if place % 8 else points
        low = chance.randrange(points - width + 1)
        found.append((low, low + width - 1))
    return found


def _ours(kind: str, sizes: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """Figures by number of points; nothing where there is no PostgreSQL."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(scratch("chart-")))
        url = stack.enter_context(database(kind))
        if url is None:
            return {}
        bus = stack.enter_context(running_bus(folder)).url
        tracker = stack.enter_context(Worker("support.tracker_part", home=folder))
        tracker.call("start", database=url, bus=bus)
        feeder = stack.enter_context(Worker("support.feed_part", home=folder))
        found = {}
        for points in sizes:
            experiment = new_id()
            fed = feeder.call("feed", bus=bus, experiment=experiment, points=points)
            took = asyncio.run(_stored(bus, experiment, points))
            say(f"{kind}: {points} points sent in {fed:.1f} s, stored and settled {took:.1f} s later")
            found[str(points)] = _asked(tracker, bus, experiment, points)
            say(f"{kind}, {points} points: {found[str(points)]}")
        tracker.call("stop")
    return found


async def _stored(bus: str, experiment: str, points: int) -> float:
    began = time.monotonic()
    async with await BusClient.connect(BusSettings(urls=(bus,), name="bench")) as client:
        while True:
            view = None
            with suppress(NotFoundError):  # its first message is still on its way
                view = await client.ask(GetExperiment(ref=experiment), project=PROJECT, user=USER, timeout=30)
            if view is not None and view.settled:
                break
            if time.monotonic() - began > STORED_S:
                raise TimeoutError(f"{view and view.points} of {points} points are stored after {STORED_S:.0f} s")
            await asyncio.sleep(0.1)
    assert (view.points, view.gaps) == (points, 0), (view.points, view.gaps)
    return time.monotonic() - began


def _asked(tracker: Worker, bus: str, experiment: str, points: int) -> dict[str, float]:
    questions = [_question(experiment, window, by_time=place % 4 == 1) for place, window in _numbered(points)]
    tracker.call("ask", questions=[[GetChart.name, question.model_dump_json()] for question in questions[:8]])
    answer = tracker.call("ask", questions=[[GetChart.name, question.model_dump_json()] for question in questions])
    waited = asyncio.run(_over_bus(bus, questions))
    return {
        "tracker_p50_ms": short(statistics.median(answer["ms"])),
        "tracker_p95_ms": short(percentile(answer["ms"], 0.95)),
        "bus_p50_ms": short(statistics.median(waited)),
        "bus_p95_ms": short(percentile(waited, 0.95)),
        "p95_bytes": percentile(answer["bytes"], 0.95),
    }


def _numbered(points: int) -> list[tuple[int, Window]]:
    return list(enumerate(windows(points, WINDOWS)))


def _question(experiment: str, window: Window, *, by_time: bool) -> GetChart:
    low, high = map(float, window)
    if by_time:
        low, high = START + low * SPACING_S, START + high * SPACING_S
    axis: Literal["step", "time"] = "time" if by_time else "step"
    return GetChart(experiments=(experiment,), metrics=("loss",), pixels=PIXELS, axis=axis, low=low, high=high)


async def _over_bus(bus: str, questions: list[GetChart]) -> list[float]:
    """Milliseconds of each; every answer has a curve of at most 2 points a pixel."""
    taken = []
    async with await BusClient.connect(BusSettings(urls=(bus,), name="bench")) as client:
        for question in questions:
            began = time.perf_counter()
            chart = await client.ask(question, project=PROJECT, user=USER, timeout=30)
            taken.append((time.perf_counter() - began) * 1000)
            assert len(chart.curves) == 1
            assert 0 < len(chart.curves[0].steps) <= 2 * PIXELS + 2, len(chart.curves[0].steps)
    return taken


def _mlflow() -> dict[str, float]:
    path = cache("mlflow-history") / f"{versions()['mlflow']}-{POINTS}.db"
    with scratch("mlflow-") as folder, Worker("peers.mlflow_history", python(), home=Path(folder)) as worker:
        seconds = worker.call("fill", path=str(path), points=POINTS)
        say(f"mlflow: a database of {POINTS} points in {seconds:.0f} s")
        drawn = [list(window) for window in windows(POINTS, MLFLOW_WINDOWS)]
        worker.call("ask", path=str(path), windows=drawn[1:2], pixels=PIXELS)
        answer = worker.call("ask", path=str(path), windows=drawn, pixels=PIXELS)
    found = {
        "p50_ms": short(statistics.median(answer["ms"])),
        "p95_ms": short(percentile(answer["ms"], 0.95)),
        "p95_bytes": percentile(answer["bytes"], 0.95),
    }
    say(f"mlflow: {found}")
    return found
