"""The folder of one job: everything that a restarted agent needs to go on.

job.json     the job as it was wanted (never secrets)
state.json   how far it is
shim.json child.json exit.json stdout.log stderr.log shim.log     the shim's
work outputs data checkpoint spool      the job's own
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from incl_agent.process import Identity
from incl_agent.runtimes.base import Exit
from incl_shared.control import JobWanted
from incl_shared.events.experiments import RankTimes, WriterCount
from incl_shared.states import EndReason

_BLOCK = 512


class Phase(StrEnum):
    """How far a job is; it only goes forward."""

    PREPARING = "preparing"
    READY = "ready"
    STARTING = "starting"
    RUNNING = "running"
    UPLOADING = "uploading"
    ENDED = "ended"


class JobState(msgspec.Struct, kw_only=True):
    """What is remembered of a job across restarts. Times in seconds since the epoch."""

    phase: Phase = Phase.PREPARING
    boot: str = ""
    preparing: float | None = None
    prepared: float | None = None
    started: float | None = None
    ended: float | None = None
    uploaded: float | None = None
    port: int | None = None
    runtime: str = "host"
    image: str | None = None
    digest: str | None = None
    pulling: float | None = None
    pulled: float | None = None
    mounting: float | None = None
    mounted: float | None = None
    reason: EndReason | None = None
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""
    hint: str = ""
    taken: str = ""
    """Why, when the machine was being taken away while it ran."""
    fenced: str = ""
    """Why it was ended although it is wanted: its node was cut off."""
    writers: list[dict[str, Any]] = []
    drained: bool = False
    """The tracker has stored all of its telemetry."""

    def times(self, rank: int) -> RankTimes:
        """As the reports carry them."""
        return RankTimes(
            rank=rank,
            preparing=self.preparing,
            prepared=self.prepared,
            started=self.started,
            ended=self.ended,
            uploaded=self.uploaded,
            pulling=self.pulling,
            pulled=self.pulled,
            image=self.digest,
            mounting=self.mounting,
            mounted=self.mounted,
        )

    def writer_counts(self) -> tuple[WriterCount, ...]:
        """As the reports carry them."""
        return tuple(WriterCount.model_validate(count) for count in self.writers)


_exits = msgspec.json.Decoder(Exit, strict=False)


class JobFiles:
    """Paths of one job, and what is written in its folder. All reads and writes are small."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._shim: Identity | None = None
        self._exit: Exit | None = None
        self.work = root / "work"
        self.outputs = root / "outputs"
        self.data = root / "data"
        self.spool = root / "spool"
        self.checkpoint = root / "checkpoint"
        self.stdout = root / "stdout.log"
        self.stderr = root / "stderr.log"
        self.hostfile = root / "hostfile"

    def create(self, wanted: JobWanted) -> None:
        """Make the folder; existing is no error."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (self.outputs, self.data, self.spool):
            folder.mkdir(exist_ok=True)
        self.save_wanted(wanted)

    def save_wanted(self, wanted: JobWanted) -> None:
        """Remember the job as it is wanted now."""
        _replace(self.root / "job.json", wanted.model_dump_json().encode())

    def load_wanted(self) -> JobWanted | None:
        """The job, or None when the folder is not (or no more) a whole one."""
        try:
            return JobWanted.model_validate_json((self.root / "job.json").read_bytes())
        except (OSError, ValueError):
            return None

    def save_state(self, state: JobState, *, sync: bool = False) -> None:
        """Remember how far it is. sync: it must survive a power loss."""
        _replace(self.root / "state.json", msgspec.json.encode(state), sync=sync)

    def load_state(self) -> JobState:
        """How far it is; a new job is preparing."""
        try:
            return msgspec.json.decode((self.root / "state.json").read_bytes(), type=JobState)
        except (OSError, msgspec.DecodeError):
            return JobState()

    def shim(self) -> Identity | None:
        """The job's one shim, once it has claimed the folder. It never changes then."""
        if self._shim is None:
            try:
                document = json.loads((self.root / "shim.json").read_bytes())
            except (OSError, ValueError):
                return None
            self._shim = Identity(int(document["pid"]), int(document["start"]), str(document["boot"]))
        return self._shim

    def child_time(self) -> float | None:
        """When the command's process was made, once it was."""
        try:
            return float(json.loads((self.root / "child.json").read_bytes())["time"])
        except (OSError, ValueError, KeyError):
            return None

    def bar_shims(self) -> bool:
        """Take the shim's place, so that none can run the job any more. False: one was first."""
        self.root.mkdir(parents=True, exist_ok=True)
        tombstone = self.root / ".shim.tombstone"
        tombstone.write_text(json.dumps({"pid": 0, "start": 0, "boot": ""}), encoding="ascii")
        try:
            os.link(tombstone, self.root / "shim.json")
        except FileExistsError:
            barred = self.shim()
            return barred is not None and barred.pid == 0
        return True

    def exit(self) -> Exit | None:
        """How the command ended, if its shim has written it. It never changes then."""
        if self._exit is None:
            try:
                self._exit = _exits.decode((self.root / "exit.json").read_bytes())
            except (OSError, msgspec.DecodeError):
                return None
        return self._exit

    def errors_end(self, limit: int = 8192) -> str:
        """The end of stderr as text."""
        return _tail(self.stderr, limit)

    def shim_errors(self, limit: int = 2000) -> str:
        """What the shim itself complained about."""
        return _tail(self.root / "shim.log", limit)

    def trim(self) -> None:
        """Delete what is not needed to ship the rest of the telemetry: the job has ended and is not wanted any more."""
        for folder in (self.work, self.outputs, self.data, self.checkpoint, self.spool / "files"):
            shutil.rmtree(folder, ignore_errors=True)

    def size(self) -> int:
        """Bytes of the disk that its telemetry takes here: a job can make a file as long as it likes, of holes."""
        total = 0
        with contextlib.suppress(OSError):
            for path in (*self.spool.glob("*.jsonl"), self.stdout, self.stderr, self.root / "log.index"):
                with contextlib.suppress(OSError):
                    total += path.lstat().st_blocks * _BLOCK
        return total

    def remove(self) -> None:
        """Delete the folder: job.json first, so that a half-deleted folder is no job."""
        (self.root / "job.json").unlink(missing_ok=True)
        shutil.rmtree(self.root, ignore_errors=True)


def _replace(path: Path, content: bytes, *, sync: bool = False) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)


def _tail(path: Path, limit: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - limit))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
