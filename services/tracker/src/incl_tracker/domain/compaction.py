"""Which small chunks and batches of lines become one, and how. Pure.

While an experiment runs its small chunks are merged by size, so that each point is written again only a few times
(the size-tiered compaction of log-structured merge trees); once it has ended, neighbours become big chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from incl_tracker.domain.samples import Mask, Samples, joined

SMALL, BIG = 4_096, 65_536
"""Points: a chunk of fewer is small; no merged chunk has more."""
PATIENCE, AT_ONCE = 16, 12
"""So many small chunks of a running series are merged by the dozen, the smallest first."""
LINES, LINE_BYTES = 4_000, 1 << 20
"""The most lines, and bytes (not compressed: who reads one of the lines unpacks all), of merged batches."""

Size = tuple[int, int]
"""(number of a chunk, its points)."""


def while_running(sizes: Iterable[Size]) -> list[int]:
    """The chunks of a series that become one now, or none."""
    small = sorted((size for size in sizes if size[1] < SMALL), key=lambda size: (size[1], size[0]))
    if len(small) < PATIENCE:
        return []
    chosen, points = [], 0
    for number, count in small[:AT_ONCE]:
        if points + count > BIG:
            break
        chosen.append(number)
        points += count
    return sorted(chosen)


def once_ended(sizes: Iterable[Size]) -> list[int]:
    """The first neighbours that together are no bigger than a big chunk, two at least, or none."""
    chosen: list[int] = []
    points = 0
    for number, count in sorted(sizes):
        if points + count > BIG:
            if len(chosen) > 1:
                break
            chosen, points = [], 0
        if count <= BIG:
            chosen.append(number)
            points += count
    return chosen if len(chosen) > 1 else []


@dataclass(frozen=True, slots=True)
class Piece:
    """The points of a chunk, and which of them are hidden (none: none is)."""

    samples: Samples
    mask: Mask | None


def merged(pieces: Sequence[Piece]) -> Piece:
    """All points in the order of steps, then times; what has both alike keeps its order."""
    samples = joined([piece.samples for piece in pieces])
    hidden = [np.zeros(len(p.samples), np.bool_) if p.mask is None else p.mask for p in pieces]
    mask = np.concatenate(hidden)
    order = np.lexsort((samples.times, samples.steps))
    return Piece(samples.take(order), mask[order] if bool(mask.any()) else None)


@dataclass(frozen=True, slots=True)
class Batch:
    """A row of lines without its text: where it lies, whose it is, how many bytes it is when unpacked."""

    start: int
    count: int
    owner: tuple[int, int, str]
    first: int
    size: int


def runs(batches: Iterable[Batch]) -> Iterable[list[Batch]]:
    """Neighbours of one writer that together are small enough to be one row; two at least."""
    run: list[Batch] = []
    for batch in batches:
        if run and not _follows(run, batch):
            if len(run) > 1:
                yield run
            run = []
        run.append(batch)
    if len(run) > 1:
        yield run


def _follows(run: Sequence[Batch], batch: Batch) -> bool:
    last = run[-1]
    near = (last.start + last.count, last.first + last.count, last.owner) == (batch.start, batch.first, batch.owner)
    lines, size = sum(b.count for b in run) + batch.count, sum(b.size for b in run) + batch.size
    return near and lines <= LINES and size <= LINE_BYTES
