"""The archive of an experiment's points and lines: one file of frames (`incl_shared.archive.frames`).

["incl-telemetry", 1, experiment]                      the first frame
["series", id, metric, rank, attempt, writer]          before the chunks of a series
["chunk", series id, number, data, mask]               as `chunk_blobs` has it
["lines", start, attempt, rank, writer, first, blob]   as `log_batches` has it
["end", frames before this one]                        so that a file that was cut short shows
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from incl_shared.archive.frames import BadFrames, FrameWriter, read_frames

FORMAT = "incl-telemetry"


def write(path: Path, experiment: str, frames: Iterable[list[Any]]) -> int:
    """Write an archive. Returns how many frames it has (without the first and the last)."""
    with FrameWriter(path, [FORMAT, 1, experiment], level=1) as out:
        for frame in frames:
            out.add(frame)
    return out.count


def read(path: Path, experiment: str) -> Iterator[list[Any]]:
    """The frames of an archive, without the first and the last, one in memory at a time.

    Raises:
        BadFrames: it is damaged, cut short, of a version that is not known here, or another experiment's.
    """
    frames = read_frames(path, FORMAT)
    head = next(frames)
    if head[2:] != [experiment]:
        raise BadFrames(f"it is the archive of {head[2:]}, not of {experiment}")
    yield from frames
