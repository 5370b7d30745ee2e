"""MLflow's list of runs: search_runs on its SQLAlchemy store in this process, without a server in between."""

from __future__ import annotations

import random
import sqlite3
import time
from pathlib import Path

from mlflow import MlflowClient
from support import dataset

_COLUMNS = "run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time, "
_COLUMNS += "source_version, lifecycle_stage, artifact_uri, experiment_id"


def fill(path: str, count: int) -> float:
    """A database that MLflow made, with runs put into its tables. Returns the seconds; 0.0 when it is there."""
    if Path(path).exists():
        return 0.0
    began = time.monotonic()
    part = f"{path}.part"
    Path(part).unlink(missing_ok=True)
    experiment = MlflowClient(tracking_uri=f"sqlite:///{part}").create_experiment("bench")
    with sqlite3.connect(part) as connection:
        for run in dataset.runs(count):
            _insert(connection, run, f"{run.number:032x}", int(experiment))
        connection.execute("ANALYZE")
    connection.close()
    Path(part).rename(path)
    return time.monotonic() - began


def _insert(connection: sqlite3.Connection, run: dataset.Run, identifier: str, experiment: int) -> None:
    start, end = int(run.created * 1000), int(run.created * 1000) + 20_000
    name, place = f"run-{run.number}", f"mlruns/{experiment}/{identifier}/artifacts"
    row = (identifier, name, "UNKNOWN", "", "", "ann", "FINISHED", start, end, "", "active", place, experiment)
    connection.execute(f"INSERT INTO runs ({_COLUMNS}) VALUES ({','.join('?' * len(row))})", row)
    connection.execute("INSERT INTO tags (key, value, run_uuid) VALUES ('mlflow.runName', ?, ?)", (name, identifier))
    latest = [
        (name, value, end, 99, False, identifier) for name, value in zip(dataset.METRICS, run.metrics, strict=True)
    ]
    connection.executemany(
        "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?,?,?,?,?,?)", latest
    )
    params = [(name, text, identifier) for name, text in zip(dataset.PARAMS, run.params, strict=True)]
    connection.executemany("INSERT INTO params (key, value, run_uuid) VALUES (?,?,?)", params)


def ask(path: str, shape: str, rounds: int, seed: int, count: int) -> dict[str, list[float]]:
    """Milliseconds of each search of one shape, and how many runs each found; one more before is not counted."""
    client = MlflowClient(tracking_uri=f"sqlite:///{path}")
    experiment = client.get_experiment_by_name("bench").experiment_id
    chance = random.Random(seed)
    taken, found = [], []
    for _ in range(rounds + 1):
        words, order = dataset.question(shape, chance, count).mlflow()
        began = time.perf_counter()
        page = client.search_runs([experiment], words, max_results=dataset.LIMIT, order_by=[order])
        taken.append((time.perf_counter() - began) * 1000)
        found.append(float(len(page)))
    return {"ms": taken[1:], "found": found[1:]}
