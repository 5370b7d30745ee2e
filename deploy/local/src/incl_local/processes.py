"""Processes by pid and start time, so that a number that was used again is never taken for the one that we started."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Identity:
    """One process for all time."""

    pid: int
    started: float

    @staticmethod
    def of(pid: int) -> Identity | None:
        """The identity of a living process, or None."""
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            return Identity(pid, process.create_time())
        except psutil.NoSuchProcess:
            return None

    def alive(self) -> bool:
        """Whether this very process still runs."""
        now = Identity.of(self.pid)
        return now is not None and abs(now.started - self.started) < 0.1

    def send(self, number: signal.Signals) -> None:
        """Signal it, if it is still the one."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def stop(self, patience: float) -> bool:
        """SIGTERM, wait, SIGKILL.

        Args:
            patience: seconds between the two.

        Returns:
            Whether it went by itself.
        """
        self.send(signal.SIGTERM)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if not self.alive():
                return True
            time.sleep(0.02)
        self.send(signal.SIGKILL)
        return False


def own() -> Identity:
    """This process."""
    return Identity(os.getpid(), psutil.Process().create_time())


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically, readable by its owner alone."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(text)
    scratch.replace(path)
