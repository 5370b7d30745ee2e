"""What an experiment of a chaos round runs, as `python job.py` in its working directory. It needs the SDK alone.

It logs a point and a line a step until the file GATE is there, keeps a small checkpoint every few steps, and writes
down what it does in a ledger of its own (one file a process, below LEDGER): for the invariants. PHASE says at which
point of its life it is to be held.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import incl

PACE_S = 0.1
EVERY = 5
"""Steps between two checkpoints."""
MORE = 5
"""Steps once the gate is open."""
LAST = 15
"""Steps once it is told to stop: a job that ends in order takes its time, and keeps a checkpoint."""
CHECKPOINT_BYTES = 300_007
"""The large checkpoint: a size of its own, so that a gate before the artifact store knows it."""
OUTPUT_BYTES = 500_009


class Ledger:
    """Lines of JSON, one write each: what was written survives the process."""

    def __init__(self, folder: Path) -> None:
        place = [os.environ[f"INCL_{name}"] for name in ("EXPERIMENT_ID", "ATTEMPT", "NODE_RANK")]
        name = "-".join([*place, str(os.getpid())])
        self._file = os.open(folder / f"{name}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, kind: str, **values: object) -> None:
        """One more line, with the time of the machine's monotonic clock."""
        line = json.dumps({"k": kind, "t": time.monotonic(), **values}) + "\n"
        os.write(self._file, line.encode())


def resumed() -> int:
    """The step of the checkpoint that was brought; -1: none."""
    brought = incl.latest_checkpoint()
    return -1 if brought is None else int(json.loads(brought.read_bytes().split(b"\n", 1)[0])["step"])


def value(step: int) -> float:
    """What is logged at a step: anybody can compute it."""
    return step / 4 + 0.5


def one_step(ledger: Ledger, step: int) -> None:
    """A point and a line; the ledger says before and after what is sure."""
    ledger.note("try", step=step)
    incl.log({"loss": value(step)}, step=step)
    ledger.note("point", step=step)
    print(f"step {step}", flush=True)
    ledger.note("line", step=step)


def keep(step: int, size: int) -> None:
    """A checkpoint of about this many bytes."""
    head = json.dumps({"step": step}).encode() + b"\n"
    incl.checkpoint(head + os.urandom(max(0, size - len(head))), step=step, name="state.bin")


def main() -> int:
    """Run."""
    phase, gate, first = os.environ["PHASE"], Path(os.environ["GATE"]), os.environ["INCL_ATTEMPT"] == "1"
    ledger = Ledger(Path(os.environ["LEDGER"]))
    stopping: list[int] = []

    def stop(number: int, _frame: Any) -> None:
        stopping.append(number)
        ledger.note("stopping")

    signal.signal(signal.SIGTERM, stop)
    step = resumed()
    ledger.note("began", resumed=step, attempt=int(os.environ["INCL_ATTEMPT"]))
    began, more, last = step, MORE, LAST
    while more and last:
        step += 1
        one_step(ledger, step)
        if phase == "checkpointing" and first and step == began + EVERY:
            keep(step, CHECKPOINT_BYTES)
            ledger.note("checkpoint", step=step)
        elif step % EVERY == 0 and not (phase == "checkpointing" and first):
            keep(step, 0)
        if stopping and phase != "ending":
            last -= 1
        elif gate.exists() or phase == "uploading":
            more -= 1
        if more and last:
            time.sleep(PACE_S)
    if not last:
        keep(step, 0)
    if phase == "uploading":
        Path(os.environ["INCL_OUTPUT_DIR"], "result.bin").write_bytes(os.urandom(OUTPUT_BYTES))
    ledger.note("ended")
    return 0


if __name__ == "__main__":
    sys.exit(main())
