"""Names of the processes that hold leases: of whom the same machine can say at once that they live no more."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

from incl_shared.ids import new_id


def own_holder() -> str:
    """A new name, of this process: <machine>:<pid>:<start in clock ticks>:<random>."""
    return f"{_machine()}:{os.getpid()}:{_started(os.getpid())}:{new_id()[-10:]}"


def is_gone(holder: str) -> bool:
    """Whether the process of that name has ended for sure: one of this machine, in this boot, whose pid is free or new.

    Of any other nothing is known: its leases have to expire.
    """
    machine, *rest = holder.split(":")
    if len(rest) != 3 or machine != _machine() or machine == _UNKNOWN:
        return False
    return str(_started(int(rest[0]))) != rest[1]


_UNKNOWN = "unknown"


@functools.cache
def _machine() -> str:
    """Changes with the boot, and with the space that pids are counted in."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return hashlib.sha256(f"{boot} {Path('/proc/self/ns/pid').readlink()}".encode()).hexdigest()[:12]
    except OSError:
        return _UNKNOWN


def _started(pid: int) -> int:
    """When it began, in clock ticks since the boot; 0 when there is no such process, or only its corpse."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
