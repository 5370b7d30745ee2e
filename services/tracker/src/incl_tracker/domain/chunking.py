"""Points made into chunks: sorted, cut into pieces of a good size, with the levels of charts beside them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from incl_tracker.domain.pyramid import COARSE, FINE, representatives
from incl_tracker.domain.samples import Mask, Samples, encode, is_rising, to_records
from incl_tracker.domain.tails import Rows

TARGET = 4_096
"""Points of a chunk that is not small; pieces have up to twice as many."""


class Chunk(NamedTuple):
    """The columns of a chunk, as `chunks` and `chunk_blobs` have them."""

    points: int
    hidden: int
    first_step: int
    last_step: int
    first_time: float
    last_time: float
    coarse: bytes
    fine: bytes
    mask: bytes | None
    data: bytes


def pieces(rows: Rows) -> Iterator[Rows]:
    """Records in the order of steps, then of times, in pieces of TARGET records to twice as many; or in one."""
    if not is_rising(rows.steps):
        order = np.lexsort((rows.times, rows.steps))
        rows = Rows(rows.series, rows.steps[order], rows.times[order], rows.values[order])
    count = len(rows)
    parts = max(1, count // TARGET)
    bounds = [count * part // parts for part in range(parts + 1)]
    for low, high in pairwise(bounds):
        yield Rows(rows.series, rows.steps[low:high], rows.times[low:high], rows.values[low:high])


def chunk(samples: Samples, mask: Mask | None = None) -> Chunk:
    """A chunk of points that are in order. mask: which are hidden; none: none is."""
    hidden = 0 if mask is None else int(mask.sum())
    coarse, fine = levels(samples, mask if hidden else None)
    times = samples.times[np.isfinite(samples.times)]
    return Chunk(
        len(samples),
        hidden,
        int(samples.steps[0]),
        int(samples.steps[-1]),
        float(times.min()) if len(times) else 0.0,
        float(times.max()) if len(times) else 0.0,
        coarse,
        fine,
        packed(mask) if hidden and mask is not None else None,
        encode(samples),
    )


def levels(samples: Samples, mask: Mask | None) -> tuple[bytes, bytes]:
    """(coarse, fine) of the points that are not hidden."""
    visible = samples if mask is None else samples.take(~mask)
    return to_records(representatives(visible, COARSE)), to_records(representatives(visible, FINE))


def packed(mask: Mask) -> bytes:
    """A mask as `chunk_blobs.mask` has it: a bit a point, the first is the highest."""
    return np.packbits(mask).tobytes()
