"""Child processes that are started again when they die, each with a log file of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from incl_local.processes import Identity, dying_with
from incl_shared.errors import InternalError

LOG_LIMIT = 32 * 1024 * 1024
"""Bytes after which a child's log file is set aside when the child starts."""
FIRST_DELAY = 0.1
LONGEST_DELAY = 5.0
STEADY_AFTER = 10.0
"""Seconds after which a child counts as healthy, so that the delay begins anew."""

_log = structlog.get_logger("incl.supervisor")


@dataclass
class Child:
    """What to run."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    patience: float = 10.0
    dies_with_us: bool = False
    """Killed by the kernel (Linux) when this process is gone, however it ended: nobody else knows of it."""


class Supervisor:
    """Runs one child until it is told to stop."""

    def __init__(self, child: Child, changed: Callable[[], None]) -> None:
        self.child = child
        self.restarts = 0
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    @property
    def identity(self) -> Identity | None:
        """The process that runs now, or None between two."""
        return Identity.of(self._process.pid) if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the child and watch it.

        Raises:
            InternalError: when it cannot be started at all.
        """
        await self._spawn()
        self._task = asyncio.create_task(self._watch(), name=f"supervise {self.child.name}")

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL for who does not listen."""
        self._stopping.set()
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), self.child.patience)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if self._task is not None:
            await self._task

    def reload(self) -> None:
        """SIGHUP: it reads its configuration again."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """SIGKILL, for who hangs; it is started again."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def restart(self) -> None:
        """SIGTERM (SIGKILL for who does not listen); it is started again as if it had died."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self.child.patience)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def _spawn(self) -> None:
        log = self.child.log
        if log.exists() and log.stat().st_size > LOG_LIMIT:
            log.replace(log.with_suffix(".old.log"))
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.child.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env={**os.environ, **self.child.environment},
                start_new_session=True,
                preexec_fn=dying_with(os.getpid()) if self.child.dies_with_us else None,
            )
        except OSError as error:
            raise InternalError(f"{self.child.name} cannot be started", cause=str(error), hint="incl doctor") from error
        finally:
            os.close(descriptor)
        self._changed()

    async def _watch(self) -> None:
        delay = FIRST_DELAY
        while not self._stopping.is_set():
            assert self._process is not None
            began = time.monotonic()
            code = await self._process.wait()
            if self._stopping.is_set():
                return
            delay = FIRST_DELAY if time.monotonic() - began > STEADY_AFTER else min(delay * 2, LONGEST_DELAY)
            self.restarts += 1
            _log.warning("died", child=self.child.name, code=code, signal=_signal(code), again_in_s=delay)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
                return
            await self._spawn_again()

    async def _spawn_again(self) -> None:
        try:
            await self._spawn()
        except InternalError as error:
            _log.error("cannot be started", child=self.child.name, cause=error.cause)


def _signal(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else ""
