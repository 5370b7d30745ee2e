"""Processes by pid and start time, so that a number that was used again is never taken for the one that we started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1


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


def dying_with(parent: int) -> Callable[[], None] | None:
    """For a child of this process, before it becomes its program: the kernel kills it when this one is gone.

    It counts from the end of the thread that starts the child: to be started from one that lasts. None where the
    system has nothing of the kind.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # found before the fork: afterwards little is safe

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask


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
