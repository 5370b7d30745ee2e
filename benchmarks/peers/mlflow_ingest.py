"""Points into MLflow by log_batch: its server with four workers on SQLite, or its SQLite store in this process."""

from __future__ import annotations

import atexit
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric

BATCH = 1000
_server: dict[str, subprocess.Popen[bytes]] = {}


def start_server(folder: str, workers: int) -> dict[str, object]:
    """Start `mlflow server` on a SQLite file in this folder. Returns its URL and the seconds until it answered."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.monotonic()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", str(workers), "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--default-artifact-root", f"{folder}/artifacts"]
    told = Path(folder) / "server.log"
    with told.open("wb") as log:
        _server["it"] = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    while time.monotonic() - began < 180:
        if _server["it"].poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return {"url": url, "seconds": time.monotonic() - began}
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    stop_server()
    raise RuntimeError(f"mlflow server did not start: {told.read_text(errors='replace')[-2000:]}")


def stop_server() -> None:
    """End the server and its workers: the group that start_server made."""
    process = _server.pop("it", None)
    if process is None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            continue


atexit.register(stop_server)


def push(uri: str, seconds: float, metrics: int) -> dict[str, float]:
    """Log batches into a run of its own for so many seconds. Returns points, and the seconds that they took."""
    client = MlflowClient(tracking_uri=uri)
    run = client.create_run("0").info.run_id
    draw, step, points = random.Random(os.getpid()).random, 0, 0
    client.log_batch(run, metrics=[Metric("warm", 0.0, 0, 0)])
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        now = int(time.time() * 1000)
        batch = [Metric(f"metric/{place % metrics}", draw(), now, step + place // metrics) for place in range(BATCH)]
        step += BATCH // metrics
        client.log_batch(run, metrics=batch)
        points += BATCH
    return {"points": float(points), "seconds": time.monotonic() - began}
