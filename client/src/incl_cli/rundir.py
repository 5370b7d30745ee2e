"""The directory of a run made by incl.init(): what it says of itself, and whether its process still lives."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from incl_cli.places import state_dir
from incl_shared.errors import ConflictError, InvalidInput, NotFoundError
from incl_shared.ids import is_id
from incl_shared.states import FINAL_STATES, ExperimentState

_WRITER = re.compile(r"^(?:p|r\d+-)(\d+)-[0-9a-f]+$")
"""The name that the SDK gives a writer: its rank if it has one, and its process."""
FOREIGN_S = 900.0
"""A run of another machine is taken as ended when nothing was written to it for so long."""
_LAST_MOMENT = 1e12
UNSAID = "the process ended without a word (killed, or its machine went down)"


@dataclass(frozen=True)
class End:
    """How a run ended."""

    state: ExperimentState
    message: str
    ended: float


@dataclass(frozen=True)
class RunDirectory:
    """`<dir>/runs/<id>/`: meta.json, spool/, outputs/, end.json, and ship/ with what the shipper remembers."""

    path: Path
    meta: dict[str, Any]

    @staticmethod
    def open(path: Path) -> RunDirectory:
        """Read what a run says of itself.

        Raises:
            NotFoundError: it is no run's directory.
            InvalidInput: its meta.json is damaged.
        """
        try:
            meta = json.loads((path / "meta.json").read_bytes())
        except OSError as error:
            raise NotFoundError(
                f"{path} is not the directory of a run", cause=error.strerror or "", hint="incl sync .incl"
            ) from error
        except (ValueError, RecursionError) as error:
            raise damaged(path, str(error)) from error
        if not isinstance(meta, dict) or not is_id(str(meta.get("id"))) or not _is_moment(meta.get("started")):
            raise damaged(path, "id and started are needed")
        return RunDirectory(path, meta)

    @property
    def id(self) -> str:
        """The run's id."""
        return str(self.meta["id"])

    @property
    def spool(self) -> Path:
        """Where the SDK writes."""
        return self.path / "spool"

    @property
    def notes(self) -> Path:
        """What the shipper remembers; somewhere else for a run on a disk that cannot be written."""
        beside = self.path / "ship"
        if os.access(beside if beside.is_dir() else self.path, os.W_OK):
            return beside
        return state_dir() / "ship" / self.id

    @property
    def shipped(self) -> bool:
        """Whether all of it is on a platform."""
        return (self.notes / "done.json").exists()

    def alive(self) -> bool:
        """Whether the process that made the run is there, and is not another one with its number.

        Of another machine's process (on a shared disk) only its records can tell: it lives while it writes.
        """
        if self.meta.get("host") not in (None, os.uname().nodename):
            return time.time() - self._last_sign() < FOREIGN_S
        if self.meta.get("boot") not in (None, boot_id()):
            return False
        pid = self.meta.get("pid")
        if type(pid) is not int or pid <= 0:
            return False
        return _exists(pid) and self.meta.get("pid_started") in (None, _started(pid))

    def end(self) -> End | None:
        """How it ended; None: it runs still."""
        try:
            said = json.loads((self.path / "end.json").read_bytes())
            state = ExperimentState(said["state"])
            ended = said["ended"] if _is_moment(said["ended"]) else self._last_sign()
            end = End(state if state in FINAL_STATES else ExperimentState.FAILED, str(said["message"]), ended)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None if self.alive() else End(ExperimentState.FAILED, UNSAID, self._last_sign())
        return end

    def writing(self) -> bool:
        """Whether another process that wrote to the run (a worker, another rank) is there still. Their numbers may
        belong to others by now, so that a caller does not wait for ever. The one that made the run does not count: it
        has ended it, and may go on for days (a notebook)."""
        maker = self.meta.get("pid")
        for entry in self.spool.glob("*.jsonl"):
            found = _WRITER.fullmatch(entry.stem)
            if found is not None and int(found[1]) != maker and _exists(int(found[1])):
                return True
        return False

    def _last_sign(self) -> float:
        stamps = [entry.stat().st_mtime for entry in self.spool.glob("*.jsonl")]
        return max([float(self.meta["started"]), *stamps])

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the only shipper of this run.

        Raises:
            ConflictError: another one ships it.
        """
        self.notes.mkdir(parents=True, exist_ok=True)
        with (self.notes / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConflictError(
                    f"the run in {self.path} has a process that ships it, or waits for the platform",
                    hint=f"see {self.path / 'ship.log'}",
                ) from error
            yield


def boot_id() -> str | None:
    """Names the time since this machine was started; process numbers begin anew with it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _exists(pid: int) -> bool:
    """A process that is dead and that nobody has waited for is not there any more."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return _stat(pid)[:1] not in ([b"Z"], [b"X"])


def _started(pid: int) -> str | None:
    fields = _stat(pid)
    return fields[19].decode() if len(fields) > 19 else None


def _stat(pid: int) -> list[bytes]:
    """What the kernel says of a process, from its state on; nothing where it says nothing."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []


def damaged(path: Path, cause: str) -> InvalidInput:
    """What a run's directory says of itself makes no sense."""
    return InvalidInput(
        f"{path / 'meta.json'} is damaged",
        cause=cause,
        hint="mend it (incl.init() writes id and started, a time), or move the run's directory away",
    )


def _is_moment(value: object) -> bool:
    return isinstance(value, float) and 0 <= value < _LAST_MOMENT


def run_paths(paths: Iterable[Path]) -> list[Path]:
    """The directories of runs that paths name: a run's own, a directory of runs, or one that has `runs` or `.incl/runs`
    in it.

    Raises:
        NotFoundError: there is none at one of them.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if (path / "meta.json").exists():
            runs = [path]
        else:
            parents = [path, path / "runs", path / ".incl" / "runs"]
            runs = sorted(meta.parent for parent in parents for meta in parent.glob("*/meta.json"))
        if not runs:
            raise NotFoundError(f"there is no run in {path}", hint="incl sync DIRECTORY, such as .incl")
        found.update(dict.fromkeys(run.resolve() for run in runs))
    return list(found)
