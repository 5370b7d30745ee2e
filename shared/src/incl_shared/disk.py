"""Room on disks, as findings."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from incl_shared.queries.stuck import Finding

LEAST_FREE = 1 << 30
"""Bytes, or a twentieth of a small disk: below, a disk is nearly full; below a tenth of that it is full."""


def disk(folder: str, *, where: str = "") -> Iterator[Finding]:
    """A disk that is nearly full. where: on which machine."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return
    yield from room(folder, usage.free, usage.total, where=where)


def room(place: str, free: int, total: int, *, where: str = "") -> Iterator[Finding]:
    """The same by the figures. The subject names the place."""
    least = min(LEAST_FREE, total // 20)
    if free < least:
        full = free < least // 10
        yield Finding(
            kind="disk.full" if full else "disk.nearly-full", severity="error" if full else "warning",
            subject=f"{where} {place}".strip(), reason=f"{free / 1e6:,.0f} MB of {total / 1e9:,.1f} GB are free",
            hint="make room on that disk",
        )  # fmt: skip
