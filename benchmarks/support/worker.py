"""A module in a process of its own, asked by JSON lines: peers run in their environment, our parts in ours."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from support.environment import say

SERVE = Path(__file__).resolve().parent / "serve.py"
QUIET = {
    "DO_NOT_TRACK": "true",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONUNBUFFERED": "1",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
}
_GONE_S = 120.0


class WorkerError(Exception):
    """The other process said so, or is gone."""


class Worker:
    """One process. home: its working directory and HOME, so that what a peer keeps lies there."""

    def __init__(
        self, module: str, python: Path | str = sys.executable, *, home: Path, env: Mapping[str, str] | None = None
    ) -> None:
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("INCL_", "XDG_", "PYTHON", "MLFLOW", "WANDB"))}
        self._log = home / f"{module.rpartition('.')[2]}-{time.monotonic_ns()}.log"
        self.module = module
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(python), "-P", str(SERVE), module],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=home, start_new_session=True,
                env={**keep, **QUIET, "HOME": str(home), **(env or {})},
            )  # fmt: skip

    def call(self, function: str, **arguments: Any) -> Any:
        """What the function returns.

        Raises:
            WorkerError: it raised, or the process ended.
        """
        self.begin(function, **arguments)
        return self.result()

    def begin(self, function: str, **arguments: Any) -> None:
        """Ask, and do something else."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"call": function, "args": arguments}).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise WorkerError(self._end()) from error

    def result(self) -> Any:
        """The answer to the oldest question; see call."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise WorkerError(self._end())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.module}: {answer['error']}")
        return answer["ok"]

    def watched(self, every_s: float = 15.0) -> Any:
        """The answer, as result; until it comes, the last line of the process' stderr is said now and then."""
        assert self.process.stdout is not None
        while not select.select([self.process.stdout], [], [], every_s)[0]:
            lines = self._log.read_text(errors="replace").splitlines()
            say(lines[-1] if lines else "…")
        return self.result()

    def close(self) -> float:
        """End it in order. Returns how many seconds that took."""
        began = time.monotonic()
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(_GONE_S)
        except subprocess.TimeoutExpired:
            say(f"{self.module} did not end within {_GONE_S:.0f} s: killed")
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return time.monotonic() - began

    def _end(self) -> str:
        code = self.process.wait(10)
        return f"{self.module} ended with {code}:\n{self._log.read_text(errors='replace')[-3000:]}"

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
