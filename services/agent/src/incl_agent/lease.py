"""The lease of a node as its shims see it: a file with the time until which its jobs may run.

`fencing` ends the jobs of a node that is cut off. But an agent that is dead, stopped or hangs ends nothing, and the
provisioner gives the work of a node that it does not hear to another one. So every shim reads this file, and kills its
job when the time in it has passed. The agent writes it anew with every word that the bus has taken, and with every look
that showed the bus itself to be away.

The clock is CLOCK_BOOTTIME: it never goes back, goes on while the machine sleeps, and all processes of a machine share
it.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

_log = logging.getLogger("incl.agent")
KILL_AT = 0.95
"""Of the lease: later than the agent's own fence, and before the provisioner gives the work away."""


def boottime() -> float:
    """Seconds since the machine's boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LeaseFile:
    """Keeps the file. guarded: whether shims are to look at it; where there is one machine only, jobs outlive all."""

    def __init__(self, path: Path, *, guarded: bool) -> None:
        self._path = path
        self._guarded = guarded
        self._seconds: float | None = None
        self._heard = time.monotonic()
        self._until = 0.0

    @property
    def path(self) -> Path | None:
        """What a shim is to look at; None: nothing."""
        return self._path if self._guarded and self._seconds is not None else None

    @property
    def over(self) -> bool:
        """Whether the bus has taken no word for so long that the work of this node may be another's by now."""
        return self._seconds is not None and boottime() >= self._until

    def agreed(self, lease_s: float | None) -> None:
        """The provisioner said how long the lease is; None: it did not."""
        if lease_s is not None and lease_s != self._seconds:
            self._seconds = lease_s
            self._write()

    def heard(self, sent: float) -> None:
        """The bus took what was sent at this monotonic time."""
        if sent > self._heard:
            self._heard = sent
            self._write()

    def _write(self) -> None:
        if self._seconds is None:
            return
        self._until = boottime() + self._heard + self._seconds * KILL_AT - time.monotonic()
        if not self._guarded:
            return
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        try:
            temporary.write_text(f"{self._until:.3f}\n", encoding="ascii")
            temporary.replace(self._path)
        except OSError as error:
            _log.error("the lease cannot be written, jobs may end: %s", error)
