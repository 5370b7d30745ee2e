"""The last 100 of a sweep of 10,000 trials in 20 dimensions: what they cost, memory, and what answers take meanwhile.

The first 9,900 trials are rows that this benchmark writes: random points, all complete. Then the sweep is resumed, on a
real bus, with scripted runs (`make bench NAME=sweep` runs 10,000 from the first one on with FULL=1, in two dimensions).
Meanwhile what `incl sweep show` and `incl sweep trials` ask is asked again and again: the sweep, the last page of 100
trials, the best 100. `question_ms` is the time until a question to the sampler is answered, its own wait left out.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from support.figures import percentile, short
from sweep import served, until_over

BEFORE, TRIALS, DIMENSIONS = 9_900, 10_000, 20
TARGET_MS = 200.0


def bench() -> dict[str, Any]:
    """One run."""
    with tempfile.TemporaryDirectory() as folder:
        ours = asyncio.run(_drive(Path(folder)))
    worst = max(ours[name] for name in ("show_p95_ms", "last_page_p95_ms", "best_page_p95_ms"))
    return {
        "name": "sweep_large",
        "unit": "s, ms, MB, trials",
        "ours": ours,
        "peers": {},
        "ratio": round(worst / TARGET_MS, 3),
        "target": {"answer_p95_ms": TARGET_MS, "trials": TRIALS},
        "ok": worst <= TARGET_MS and ours["trials"] == TRIALS,
    }


def _loss(point: list[float]) -> float:
    return float(np.sum((np.asarray(point) - 0.3) ** 2))


def _script(event: Any) -> Any:
    from incl_hpo.testing_runs import Ran

    return Ran({"loss": _loss([float(event.spec.env[f"X{n}"]) for n in range(DIMENSIONS)])})


async def _drive(folder: Path) -> dict[str, Any]:
    from incl_hpo.testing_runs import sweep_spec
    from incl_shared.events import SweepResumeRequested, SweepSubmitted
    from incl_shared.ids import new_id
    from incl_shared.queries.hpo import GetSweep

    parameters = {f"X{n}": {"type": "uniform", "low": 0, "high": 1} for n in range(DIMENSIONS)}
    spec = sweep_spec(parameters=parameters, budget={"trials": 1}, parallel=8)
    async with served(folder, _script) as (client, app, _):
        began = SweepSubmitted(sweep=new_id(), spec=spec)
        await until_over(client, "ann", began)
        small = psutil.Process().memory_info().rss
        await asyncio.to_thread(_write, folder / "hpo.db", began.sweep)
        going = asyncio.create_task(until_over(client, "ann", SweepResumeRequested(sweep=began.sweep, trials=TRIALS)))
        answers = await _answers(client, began.sweep, going)
        took, memory = await going, psutil.Process().memory_info().rss
        row = (await client.ask(GetSweep(ref=began.sweep), project="default", user="ann")).row
        questions = _questions(app)
    return {
        "last_100_s": short(took, 3),
        "question_ms": short(questions, 3),
        **answers,
        "memory_mb": short((memory - small) / 1e6, 3),
        "trials": sum(row.counts.values()),
    }


def _questions(app: Any) -> float:
    """Milliseconds of the mean question."""
    told = {s.name: s.value for m in app.metrics.propose.collect() for s in m.samples}
    total, count = (next(v for k, v in told.items() if k.endswith(end)) for end in ("_sum", "_count"))
    return total / count * 1000


def _write(path: Path, sweep: str) -> None:
    """Trials 1 to BEFORE - 1 of a sweep that has trial 0, as the service would have stored them."""
    from incl_hpo.domain.trial import experiment_id

    rng, now = np.random.default_rng(0), time.time()
    connection = sqlite3.connect(path, timeout=30)
    connection.row_factory = sqlite3.Row
    with connection:
        first = dict(connection.execute("SELECT * FROM trials WHERE sweep = ?", (sweep,)).fetchone())
        rows = []
        for number in range(1, BEFORE):
            point = rng.random(DIMENSIONS).tolist()
            named = json.dumps({f"X{n}": value for n, value in enumerate(point)})
            changes = {"number": number, "experiment": experiment_id(sweep, number), "parameters": named}
            value = _loss(point)
            rows.append({**first, **changes, "values": json.dumps([value]), "score": value, "ended": now})
        columns = ", ".join(f'"{name}"' for name in first)
        places = ", ".join(f":{name}" for name in first)
        connection.executemany(f"INSERT INTO trials ({columns}) VALUES ({places})", rows)
        connection.execute("UPDATE sweeps SET asked = ?, good = ? WHERE id = ?", (BEFORE, BEFORE, sweep))
    connection.close()


async def _answers(client: Any, sweep: str, going: asyncio.Task[float]) -> dict[str, float]:
    """Medians and 95th percentiles of the answers, in ms, while the sweep goes on."""
    from incl_shared.queries.hpo import GetSweep, ListTrials

    asked = {
        "show": GetSweep(ref=sweep),
        "last_page": ListTrials(sweep=sweep, cursor=BEFORE - 100, limit=100),
        "best_page": ListTrials(sweep=sweep, sort="value", limit=100),
    }
    taken: dict[str, list[float]] = {name: [] for name in asked}
    while not going.done():
        for name, query in asked.items():
            began = time.perf_counter()
            await client.ask(query, project="default", user="ann", timeout=30)
            taken[name].append((time.perf_counter() - began) * 1000)
        await asyncio.wait((going,), timeout=0.1)
    shares = (("median", 0.5), ("p95", 0.95))
    return {f"{n}_{what}_ms": short(percentile(t, share), 3) for n, t in taken.items() for what, share in shares}
