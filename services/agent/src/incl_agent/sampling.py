"""What jobs and the node use, every few seconds, as ordinary metric records under `system/`.

One pass over /proc serves all jobs: each process is counted for the job whose shim is among its ancestors. The records
go into the job's spool under a writer of the agent's own, and travel as all others do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from incl_agent.gpus import Gpus, GpuUse
from incl_agent.process import stat_fields
from incl_shared.telemetry.spool import open_regular

_log = logging.getLogger("incl.agent")
WRITER = "sys"
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Use:
    """What a set of processes uses: CPU in ticks since their start, memory and disk in bytes."""

    ticks: int = 0
    memory: int = 0
    read: int = 0
    written: int = 0
    processes: int = 0


@dataclass
class _Watched:
    shim: int
    gpus: tuple[int, ...]
    spool: Path
    since: float
    last: Use = field(default_factory=Use)
    last_at: float = 0.0


class Sampler:
    """Samples for as long as `run` runs; jobs come and go."""

    def __init__(self, every_s: float, gpus: Gpus) -> None:
        self._every_s = every_s
        self._gpus = gpus
        self._watched: dict[str, _Watched] = {}
        self._network = (0, 0)
        self._network_at = 0.0
        self.failures = 0

    def watch(self, job: str, shim: int, gpus: tuple[int, ...], spool: Path) -> None:
        """Measure what runs under this shim."""
        now = time.monotonic()
        self._watched[job] = _Watched(shim, gpus, spool, now, last_at=now)

    def unwatch(self, job: str) -> None:
        """Measure it no more."""
        self._watched.pop(job, None)

    async def run(self) -> None:
        """Sample for ever; nothing is done while no job runs."""
        while True:
            await asyncio.sleep(self._every_s)
            if self._watched:
                try:
                    await asyncio.to_thread(self.sample, dict(self._watched))
                except Exception:  # noqa: BLE001 - the edge of the loop
                    self.failures += 1
                    _log.exception("a sample failed")

    def sample(self, watched: dict[str, _Watched]) -> None:
        """Measure all jobs once and write their records."""
        owners = {entry.shim: job for job, entry in watched.items()}
        uses = measure(owners)
        shared = self._node_values()
        busy = self._gpus.read(sorted({gpu for entry in watched.values() for gpu in entry.gpus}))
        now = time.monotonic()
        for job, entry in watched.items():
            use = uses.get(job)
            if use is None:
                continue
            values = _job_values(entry, use, now)
            values.update(shared)
            for place, gpu in enumerate(entry.gpus):
                values.update(_gpu_values(place, busy.get(gpu)))
            entry.last, entry.last_at = use, now
            try:
                append_record(entry.spool, values, round(now - entry.since))
            except OSError as error:  # the job's own doing, or a full disk: the other jobs are measured all the same
                self.failures += 1
                _log.debug("no sample of job %s can be written: %s", job, error)

    def _node_values(self) -> dict[str, float]:
        network, now = psutil.net_io_counters(), time.monotonic()
        sent, received = (network.bytes_sent, network.bytes_recv) if network is not None else (0, 0)
        values = {"system/node/cpu_percent": psutil.cpu_percent(), "system/node/memory": float(_memory_used())}
        if self._network_at:
            seconds = max(1e-3, now - self._network_at)
            values["system/node/network_sent"] = max(0, sent - self._network[0]) / seconds
            values["system/node/network_received"] = max(0, received - self._network[1]) / seconds
        self._network, self._network_at = (sent, received), now
        return values


def measure(owners: dict[int, str]) -> dict[str, Use]:
    """What the descendants of each shim use. owners: shim -> job."""
    parents: dict[int, int] = {}
    numbers: dict[int, tuple[int, int]] = {}
    for pid in _pids():
        fields = stat_fields(pid)
        if fields is not None and len(fields) > 21:
            parents[pid] = int(fields[1])
            numbers[pid] = (sum(map(int, fields[11:15])), int(fields[21]) * _PAGE)
    uses: dict[str, Use] = {}
    for pid, (ticks, memory) in numbers.items():
        job = _owner(pid, parents, owners)
        if job is not None and pid not in owners:
            use = uses.setdefault(job, Use())
            read, written = _disk(pid)
            use.ticks += ticks
            use.memory += memory
            use.read += read
            use.written += written
            use.processes += 1
    return uses


def append_record(spool: Path, values: dict[str, float], step: int) -> None:
    """One record of the agent's own writer. A line that a crash cut short is cut off first."""
    path = spool / f"{WRITER}.jsonl"
    line = json.dumps({"k": "m", "t": time.time(), "s": step, "v": values}, separators=(",", ":")).encode() + b"\n"
    with os.fdopen(open_regular(path, os.O_RDWR | os.O_APPEND | os.O_CREAT), "rb+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            tail = os.pread(file.fileno(), min(size, 4096), max(0, size - 4096))
            if not tail.endswith(b"\n"):
                file.truncate(max(0, size - 4096) + tail.rfind(b"\n") + 1)
        file.write(line)


def _pids() -> Iterable[int]:
    return (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit())


def _owner(pid: int, parents: dict[int, int], owners: dict[int, str]) -> str | None:
    while pid in parents:
        if pid in owners:
            return owners[pid]
        pid = parents[pid]
    return None


def _disk(pid: int) -> tuple[int, int]:
    with contextlib.suppress(OSError, ValueError, IndexError):
        found = dict(line.split(b": ") for line in Path(f"/proc/{pid}/io").read_bytes().splitlines())
        return int(found[b"read_bytes"]), int(found[b"write_bytes"])
    return 0, 0


def _job_values(entry: _Watched, use: Use, now: float) -> dict[str, float]:
    """Rates since the last sample; processes that ended in between make a difference negative: then zero."""
    seconds, last = max(1e-3, now - entry.last_at), entry.last
    return {
        "system/cpu_percent": max(0, use.ticks - last.ticks) / _TICKS / seconds * 100,
        "system/memory": float(use.memory),
        "system/disk_read": max(0, use.read - last.read) / seconds,
        "system/disk_written": max(0, use.written - last.written) / seconds,
        "system/processes": float(use.processes),
    }


def _gpu_values(place: int, use: GpuUse | None) -> dict[str, float]:
    if use is None:
        return {}
    return {f"system/gpu.{place}/percent": use.percent, f"system/gpu.{place}/memory": use.memory}


def _memory_used() -> int:
    memory = psutil.virtual_memory()
    return int(memory.total - memory.available)
