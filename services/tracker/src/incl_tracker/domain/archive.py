"""The archive of an experiment's points and lines: one file, a zstd stream of msgpack frames.

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

import msgspec
import zstandard

FORMAT, VERSION = "incl-telemetry", 1
MAX_FRAME = 1 << 28
_BLOCK = 1 << 18
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Any])


class BadArchive(ValueError):  # noqa: N818
    """The file is no archive, or not a whole one; says why."""


def write(path: Path, experiment: str, frames: Iterable[list[Any]]) -> int:
    """Write an archive. Returns how many frames it has (without the first and the last)."""
    with path.open("wb") as file, zstandard.ZstdCompressor(level=1).stream_writer(file) as out:
        _put(out, [FORMAT, VERSION, experiment])
        count = sum(1 for frame in frames if _put(out, frame))
        _put(out, ["end", count])
    return count


def _put(out: Any, frame: list[Any]) -> int:
    data = _encoder.encode(frame)
    out.write(len(data).to_bytes(4, "little") + data)
    return len(data)


def read(path: Path, experiment: str) -> Iterator[list[Any]]:
    """The frames of an archive, without the first and the last, one in memory at a time.

    Raises:
        BadArchive: it is damaged, cut short, or another experiment's.
    """
    frames = _frames(path)
    head = next(frames, None)
    if head is None or head[:2] != [FORMAT, VERSION]:
        raise BadArchive("it is no archive of telemetry that this version knows")
    if head[2:] != [experiment]:
        raise BadArchive(f"it is the archive of {head[2:]}, not of {experiment}")
    for count, frame in enumerate(frames):
        if frame[0] == "end":
            if frame[1:] != [count]:
                raise BadArchive(f"it has {count} frames, and says {frame[1:]}")
            return
        yield frame
    raise BadArchive("its end is missing")


def _frames(path: Path) -> Iterator[list[Any]]:
    try:
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            while size := _exactly(stream, 4):
                length = int.from_bytes(size, "little")
                if length > MAX_FRAME:
                    raise BadArchive(f"a frame of {length} bytes")
                yield _decoder.decode(_exactly(stream, length))
    except (zstandard.ZstdError, msgspec.DecodeError) as error:
        raise BadArchive(str(error)) from error


def _exactly(stream: Any, size: int) -> bytes:
    parts, left = [], size
    while left:
        part = stream.read(min(left, _BLOCK))
        if not part:
            if left < size:
                raise BadArchive("it is cut short")
            return b""
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
