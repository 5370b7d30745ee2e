"""MLflow's sampled history of one metric, as its page asks for it: the route of its Flask app, without a socket."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

RUN = "0" * 31 + "1"
ROUTE = "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval"
_apps: dict[str, Any] = {}


def fill(path: str, points: int) -> float:
    """A database that MLflow made, with one run of one metric. Returns the seconds; 0.0 when it is there."""
    if Path(path).exists():
        return 0.0
    began = time.monotonic()
    part = f"{path}.part"
    Path(part).unlink(missing_ok=True)
    client = MlflowClient(tracking_uri=f"sqlite:///{part}")
    experiment = int(client.create_experiment("bench"))
    run = client.create_run(str(experiment)).info.run_id
    with sqlite3.connect(part) as connection:
        connection.execute("UPDATE runs SET run_uuid = ? WHERE run_uuid = ?", (RUN, run))
        connection.execute("UPDATE tags SET run_uuid = ? WHERE run_uuid = ?", (RUN, run))
        rows = "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?,?,?,?,?,?)"
        connection.executemany(rows, _points(points))
        connection.execute(
            "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) "
            "SELECT key, value, timestamp, step, is_nan, run_uuid FROM metrics ORDER BY step DESC LIMIT 1"
        )
        connection.execute("ANALYZE")
    connection.close()
    Path(part).rename(path)
    return time.monotonic() - began


def _points(count: int) -> Iterator[tuple[str, float, int, str, int, bool]]:
    draw, start = random.Random(7).random, 1_700_000_000_000
    for step in range(count):
        yield "loss", 1000.0 / (step + 1000) + draw() * 0.1, start + step * 7, RUN, step, False


def ask(path: str, windows: list[list[int]], pixels: int) -> dict[str, list[float]]:
    """Milliseconds and bytes of each answer."""
    if not _apps:
        os.environ["_MLFLOW_SERVER_FILE_STORE"] = f"sqlite:///{path}"
        from mlflow.server import app

        _apps["client"] = app.test_client()
    taken, sizes = [], []
    for low, high in windows:
        began = time.perf_counter()
        query = {"run_ids": RUN, "metric_key": "loss", "max_results": pixels, "start_step": low, "end_step": high}
        answer = _apps["client"].get(ROUTE, query_string=query)
        data = answer.get_data()
        taken.append((time.perf_counter() - began) * 1000)
        assert answer.status_code == 200, data[:500]
        sizes.append(float(len(data)))
    return {"ms": taken, "bytes": sizes}
