"""What all jobs of a node share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incl_agent.blobs import BlobCache
from incl_agent.lease import LeaseFile
from incl_agent.metrics import AgentMetrics
from incl_agent.reporter import Reporter
from incl_agent.reserve import Reserve
from incl_agent.runtimes import Runtime, RuntimeFailure
from incl_agent.sampling import Sampler
from incl_agent.settings import AgentSettings
from incl_shared.bus.client import BusClient
from incl_shared.control import JobSpec, JobWanted
from incl_shared.states import EndReason

if TYPE_CHECKING:
    from incl_agent.life import JobLife
    from incl_agent.telemetry import JobTelemetry

_log = logging.getLogger("incl.agent")

_TELL_S = 60.0
_NO_TOOL = "install podman on that machine, or run without an image: --no-image"
_NO_TOOL_IN_THE_CLOUD = (
    "the image that machines boot from has neither: the platform's operator names one that has, by "
    "INCL_PROVISIONER_CLOUD__IMAGE_PROJECT and INCL_PROVISIONER_CLOUD__IMAGE_FAMILY (for GPUs …__GPU_IMAGE_FAMILY); "
    "or run without an image: --no-image"
)
"""For a machine that is deleted by the time somebody reads it."""


@dataclass
class Node:
    """Made by app.py, handed to every job."""

    settings: AgentSettings
    client: BusClient
    metrics: AgentMetrics
    reporter: Reporter
    cache: BlobCache
    sampler: Sampler
    runtimes: dict[str, Runtime]
    """Those that work here. Containers come when their probe is done."""
    probed: asyncio.Event
    """Set once it is known whether containers work here."""
    telemetry: Callable[[JobLife], JobTelemetry]
    machine: str
    sdk: Path
    shim: Path
    gpus: int
    base_environment: dict[str, str]
    lease: LeaseFile
    reserve: Reserve
    hidden: tuple[Path, ...] = ()
    disk_waits: int = 0
    """How often a job had to wait because the disk of this machine was full."""
    _told: float = -math.inf
    children: set[int] = field(default_factory=set)
    """Shims that this process started and has not reaped."""
    clear_way: Callable[[JobWanted], Coroutine[Any, Any, None]] | None = None
    """Waits until no earlier attempt of a job's experiment runs here."""

    async def runtime_for(self, spec: JobSpec) -> str:
        """The runtime that honours a job.

        Raises:
            RuntimeFailure: reason unsupported, when none does.
        """
        if spec.image is None:
            name = "bubblewrap" if spec.sandbox else "host"
            if name in self.runtimes:
                return name
            raise RuntimeFailure(
                EndReason.UNSUPPORTED,
                f"a sandbox was asked for, and bubblewrap does not work on the machine {self.settings.node}",
                "install bubblewrap there, or leave sandbox out",
            )
        await self.probed.wait()
        for name in (self.settings.container_tool,) if self.settings.container_tool else ("podman", "docker"):
            if name in self.runtimes:
                return name
        raise RuntimeFailure(
            EndReason.UNSUPPORTED,
            f"the image {spec.image} cannot be run: no podman or docker works on the machine {self.settings.node}",
            _NO_TOOL_IN_THE_CLOUD if self.settings.disks is not None else _NO_TOOL,
        )

    def no_room(self, job: str) -> None:
        """The disk of this machine is full: the job waits for room, and is counted. Told once a minute."""
        self.disk_waits += 1
        now = time.monotonic()
        if now - self._told < _TELL_S:
            return
        self._told = now
        place = self.settings.data_dir
        _log.error("job %s waits: the disk of this machine is full; make room on the disk of %s", job, place)

    def watch(self, job: str, shim: int, gpus: tuple[int, ...], spool: Path) -> None:
        """Measure a job from now on."""
        self.sampler.watch(job, shim, gpus, spool)

    def unwatch(self, job: str) -> None:
        """Measure it no more."""
        self.sampler.unwatch(job)

    def reap(self, pid: int | None = None) -> None:
        """Collect the exit status of a shim, or of all that have ended; one that still runs is left."""
        for child in list(self.children) if pid is None else [pid]:
            done = True
            with contextlib.suppress(ChildProcessError):
                done = os.waitpid(child, os.WNOHANG)[0] != 0
            if done:
                self.children.discard(child)
