"""Lists of experiments at 1,000,000, each with 20 metrics and 20 parameters; at 10,000 beside MLflow's search_runs.

Five shapes, pages of 100, metrics and bounds drawn anew for each question: the newest; a metric above a bound, newest
first; all by a metric; a parameter and a metric, by another metric; a value that about 150 runs have, newest first.
The rows are put into the tracker's tables in bulk (support.list_data) and packed by the tracker's own upkeep; then the
tracker runs on them as `incl up` runs it and answers ListExperiments. Its time is from the question's payload to the
answer's (JSON included), past the bus; `cold` is the first question of each shape after a start. The others are asked
once it has read the columns ahead, seconds later.
MLflow's search_runs runs in its process, on its SQLite store with the same 10,000 runs, without its server; it gives
all metrics and parameters of a run, we give its row and the metrics that are named or shown.
The databases are kept in .bench/cache (some 20 GB) until the tables change. INCL_BENCH_RUNS: fewer experiments.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa
from support import dataset
from support.environment import BENCHMARKS, PLACE, cache, python, say, scratch, versions
from support.figures import percentile, short
from support.parts import running_bus, running_postgres, stored_bytes
from support.worker import Worker

from incl_shared.db import make_engine
from incl_shared.queries.tracker import ListExperiments

RUNS = int(os.environ.get("INCL_BENCH_RUNS", "1_000_000"))
BESIDE = min(RUNS, 10_000)
ROUNDS, MLFLOW_ROUNDS = 200, 12
LEAST_FREE, STUCK_S = 40 << 30, 120.0
TARGETS = {"p95 ms": 50.0, "over mlflow": 20.0}
TRACKER = BENCHMARKS.parent / "services" / "tracker" / "src" / "incl_tracker"


def bench() -> dict[str, Any]:
    """Milliseconds of a page of 100."""
    ours: dict[str, Any] = {}
    for kind in ("sqlite", "postgres"):
        for count in sorted({BESIDE, RUNS}):
            ours[f"{kind} {count}"] = _ours(kind, count)
    mlflow = _mlflow()
    beside = ours[f"sqlite {BESIDE}"]
    over = {shape: mlflow[shape]["p95_ms"] / beside[shape]["p95_ms"] for shape in dataset.SHAPES}
    used = {
        f"{kind}: {shape}": side[shape]["p95_ms"] / TARGETS["p95 ms"]
        for kind, side in ours.items()
        for shape in (dataset.SHAPES if side else ())
    }
    used |= {f"over mlflow: {shape}": TARGETS["over mlflow"] / times for shape, times in over.items()}
    return {
        "name": "list",
        "unit": "ms",
        "ours": ours,
        "peers": {"mlflow search_runs": {"version": versions()["mlflow"], "runs": BESIDE, **mlflow}},
        "over_mlflow": {shape: round(times, 1) for shape, times in over.items()},
        "ratio": round(max(used.values()), 3),
        "target": TARGETS,
        "missed": [name for name, share in used.items() if share > 1],
        "ok": max(used.values()) <= 1 and all(ours.values()),
    }


def _fingerprint() -> str:
    """Of what makes the stored rows: another one means that the databases are made anew."""
    files = [TRACKER / "tables.py", *sorted((TRACKER / "migrations").rglob("*.py"))]
    files += [TRACKER / "domain" / "columns.py", TRACKER / "store_packing.py"]
    files += [BENCHMARKS / "support" / name for name in ("dataset.py", "list_data.py")]
    text = hashlib.sha256()
    for file in files:
        text.update(file.read_bytes())
    return text.hexdigest()[:12]


def _kept(kind: str, count: int) -> Path:
    """The folder of a data set of this code; those of other code go."""
    name = f"list-{kind}-{count}-"
    for old in (PLACE / "cache").glob(f"{name}*"):
        if old.name != name + _fingerprint():
            shutil.rmtree(old)
    return cache(name + _fingerprint())


def _ours(kind: str, count: int) -> dict[str, Any]:
    """Figures by shape; nothing where there is no PostgreSQL."""
    folder = _kept(kind, count)
    with ExitStack() as stack:
        home = Path(stack.enter_context(scratch("list-")))
        url = f"sqlite:///{folder / 'tracker.db'}"
        if kind == "postgres":
            server = stack.enter_context(running_postgres(folder / "cluster"))
            if server is None:
                return {}
            url = server.url("tracker")
            if not (folder / "whole").exists():
                server.administer("DROP DATABASE IF EXISTS tracker")
                server.administer("CREATE DATABASE tracker")
        if not (folder / "whole").exists():
            _load(url, count, folder, home)
        bus = stack.enter_context(running_bus(home)).url
        tracker = stack.enter_context(Worker("support.tracker_part", home=home))
        tracker.call("start", database=url, bus=bus)
        if not (folder / "packed").exists():
            _packed(url)
            (folder / "packed").touch()
            tracker.call("stop")
            tracker.close()
            tracker = stack.enter_context(Worker("support.tracker_part", home=home))
            tracker.call("start", database=url, bus=bus)
        found: dict[str, Any] = _asked(tracker, count)
        tracker.call("stop")
        found["bytes an experiment"] = round(stored_bytes(url) / count)
    say(f"{kind}, {count}: {found}")
    return found


def _load(url: str, count: int, folder: Path, home: Path) -> None:
    if count > 100_000 and shutil.disk_usage(folder).free < LEAST_FREE:
        raise SystemExit("error: the databases need 40 GB free\nhint: make room, or INCL_BENCH_RUNS=100000")
    for part in folder.glob("tracker.db*"):
        part.unlink()
    say(f"filling {url.partition(':')[0]} with {count} experiments: once; at 1,000,000 some minutes")
    with Worker("support.list_data", home=home) as loader:
        loader.begin("load", url=url, count=count)
        seconds = loader.watched()
    (folder / "whole").touch()
    say(f"filled in {seconds:.0f} s")


def _packed(url: str) -> None:
    """Until the tracker's upkeep has nothing left to do for lists."""
    engine = make_engine(url, write=False, size=1)
    began = told = time.monotonic()
    left, stuck = -1, 0.0
    try:
        while left:
            time.sleep(0.5)
            with engine.connect() as connection:
                now = int(connection.execute(sa.text("SELECT count(*) FROM hot")).scalar_one())
            stuck = time.monotonic() if now != left else stuck
            left = now
            if time.monotonic() - stuck > STUCK_S:
                raise SystemExit(f"error: the upkeep has not packed one of {left} experiments in {STUCK_S:.0f} s")
            if time.monotonic() - told > 15:
                told = time.monotonic()
                say(f"{left} experiments are still to be packed")
    finally:
        engine.dispose()
    say(f"packed in {time.monotonic() - began:.0f} s")


def _asked(tracker: Worker, count: int) -> dict[str, dict[str, float]]:
    chance = random.Random(5)

    def ask(shape: str, rounds: int) -> dict[str, list[Any]]:
        questions = []
        for _ in range(rounds):
            words, order = dataset.question(shape, chance, count).ours()
            query = ListExperiments(filter=words, sort=order, limit=dataset.LIMIT)
            questions.append([ListExperiments.name, query.model_dump_json()])
        answer: dict[str, list[Any]] = tracker.call("ask", questions=questions)
        return answer

    cold = {shape: ask(shape, 1)["ms"][0] for shape in dataset.SHAPES}
    _idle(tracker.process.pid)
    found = {}
    for shape in dataset.SHAPES:
        began = time.monotonic()
        answer = ask(shape, ROUNDS)
        found[shape] = {
            "p50_ms": short(statistics.median(answer["ms"])),
            "p95_ms": short(percentile(answer["ms"], 0.95)),
            "most_ms": short(max(answer["ms"])),
            "cold_ms": short(cold[shape]),
            "bytes": statistics.median(answer["bytes"]),
        }
        say(f"{shape}: {found[shape]} ({time.monotonic() - began:.1f} s)")
    return found


def _idle(pid: int) -> None:
    """Until a process takes less than a tenth of a core."""
    process = psutil.Process(pid)
    for _ in range(60):
        if process.cpu_percent(0.5) < 10:
            return


def _mlflow() -> dict[str, dict[str, float]]:
    path = cache("mlflow-runs") / f"{versions()['mlflow']}-{BESIDE}-{dataset.RARE_RUNS}.db"
    found = {}
    with scratch("mlflow-") as folder, Worker("peers.mlflow_runs", python(), home=Path(folder)) as worker:
        seconds = worker.call("fill", path=str(path), count=BESIDE)
        say(f"mlflow: a database of {BESIDE} runs in {seconds:.0f} s")
        for shape in dataset.SHAPES:
            answer = worker.call("ask", path=str(path), shape=shape, rounds=MLFLOW_ROUNDS, seed=5, count=BESIDE)
            found[shape] = {
                "p50_ms": short(statistics.median(answer["ms"])),
                "p95_ms": short(percentile(answer["ms"], 0.95)),
            }
            say(f"mlflow, {shape}: {found[shape]}")
    return found
