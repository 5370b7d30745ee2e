"""One logging library in a process: a call of ten scalars beside a bare JSON line with write(), in turn."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable

Log = Callable[[dict[str, float], int], None]
SCALARS = 10
_open: dict[str, Callable[[], None]] = {}
_logs: dict[str, Log] = {}


def start(side: str, folder: str) -> float:
    """Import the library and begin a run. Returns the milliseconds that the beginning took, without the import."""
    file = os.open(os.path.join(folder, f"bare-{side}.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)  # noqa: PTH118

    def bare(values: dict[str, float], step: int) -> None:
        os.write(file, (json.dumps({"k": "m", "t": time.time(), "s": step, "v": values}) + "\n").encode())

    begin = _SIDES[side]()
    began = time.perf_counter()
    _logs["bare"], (_logs["side"], _open["finish"]) = bare, begin(folder)
    return (time.perf_counter() - began) * 1000


def measure(calls: int, pause_s: float, first_step: int) -> dict[str, list[int]]:
    """Nanoseconds of each call, of both sides. The two take turns in being the first."""
    chance = random.Random(first_step)
    taken: dict[str, list[int]] = {name: [] for name in _logs}
    names = sorted(_logs)
    for step in range(first_step, first_step + calls):
        for name in names if step % 2 else reversed(names):
            values = {f"metric/{i}": chance.random() for i in range(SCALARS)}
            log = _logs[name]
            if pause_s:
                time.sleep(pause_s)
            start_ns = time.perf_counter_ns()
            log(values, step)
            taken[name].append(time.perf_counter_ns() - start_ns)
    return taken


def finish() -> float:
    """End the run as its user would. Returns milliseconds."""
    began = time.perf_counter()
    _open.pop("finish")()
    return (time.perf_counter() - began) * 1000


Begin = Callable[[str], tuple[Log, Callable[[], None]]]


def _incl() -> Begin:
    import incl

    def begin(folder: str) -> tuple[Log, Callable[[], None]]:
        incl.init(dir=folder)
        return incl.log, incl.finish

    return begin


def _trackio() -> Begin:
    import trackio

    def begin(folder: str) -> tuple[Log, Callable[[], None]]:
        trackio.init(project="bench", name="run", auto_log_gpu=False, auto_log_cpu=False)
        return (lambda values, step: trackio.log(values, step=step)), trackio.finish

    return begin


def _wandb() -> Begin:
    import wandb

    def begin(folder: str) -> tuple[Log, Callable[[], None]]:
        run = wandb.init(project="bench", mode="offline", dir=folder)
        return (lambda values, step: run.log(values, step=step)), run.finish

    return begin


def _mlflow() -> Begin:
    import mlflow

    def begin(folder: str) -> tuple[Log, Callable[[], None]]:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        mlflow.start_run()
        return (lambda values, step: mlflow.log_metrics(values, step=step)), mlflow.end_run

    return begin


def _aim() -> Begin:
    from aim import Run

    def begin(folder: str) -> tuple[Log, Callable[[], None]]:
        run = Run(repo=folder, system_tracking_interval=None, capture_terminal_logs=False)
        return (lambda values, step: run.track(values, step=step)), run.close

    return begin


_SIDES: dict[str, Callable[[], Begin]] = {
    "incl": _incl, "trackio": _trackio, "wandb": _wandb, "mlflow": _mlflow, "aim": _aim,
}  # fmt: skip
