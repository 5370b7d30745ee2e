"""A file of frames: a zstd stream of length-prefixed msgpack arrays. The first one says what it is, the last one how
many there are, so that a file that was cut short shows. And plain files, compressed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec
import zstandard

MAX_FRAME = 1 << 28
_BLOCK = 1 << 18
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Any])


class BadFrames(ValueError):  # noqa: N818
    """The file is not what it should be, or not whole; says why."""


class FrameWriter:
    """Writes a file of frames; whole once it is closed without an error. head: kind, version, whatever else."""

    def __init__(self, path: Path, head: list[Any], *, level: int = 3) -> None:
        self._file = path.open("wb")
        self._out = zstandard.ZstdCompressor(level=level).stream_writer(self._file)
        self.count = 0
        self._put(head)

    def add(self, frame: list[Any]) -> None:
        """One frame more; its first element may not be "end"."""
        self._put(frame)
        self.count += 1

    def _put(self, frame: list[Any]) -> None:
        data = _encoder.encode(frame)
        self._out.write(len(data).to_bytes(4, "little") + data)

    def close(self, *, whole: bool = True) -> None:
        """End it."""
        if whole:
            self._put(["end", self.count])
        self._out.close()  # type: ignore[no-untyped-call]
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(whole=kind is None)


def read_frames(path: Path, kind: str, version: int = 1) -> Iterator[list[Any]]:
    """The frames of a file: the head first, then the others but for the last, one in memory at a time.

    Raises:
        BadFrames: it is damaged, cut short, of another kind or of a version that is not known here.
    """
    with path.open("rb") as file:
        frames = _frames(file)
        head = next(frames, None)
        if head is None or head[:1] != [kind]:
            raise BadFrames(f"it is no {kind}")
        if head[1:2] != [version]:
            raise BadFrames(f"it is a {kind} of version {head[1:2]}, not {version}")
        yield head
        for count, frame in enumerate(frames):
            if frame[:1] == ["end"]:
                if frame[1:] != [count]:
                    raise BadFrames(f"it has {count} frames, and says {frame[1:]}")
                return
            yield frame
        raise BadFrames("its end is missing")


def _frames(file: BinaryIO) -> Iterator[list[Any]]:
    try:
        with zstandard.ZstdDecompressor().stream_reader(file, closefd=False) as stream:
            while size := _exactly(stream, 4):
                length = int.from_bytes(size, "little")
                if length > MAX_FRAME:
                    raise BadFrames(f"a frame of {length} bytes")
                yield _decoder.decode(_exactly(stream, length))
    except (zstandard.ZstdError, msgspec.DecodeError) as error:
        raise BadFrames(str(error)) from error


def _exactly(stream: Any, size: int) -> bytes:
    parts, left = [], size
    while left:
        part = stream.read(min(left, _BLOCK))
        if not part:
            if left < size:
                raise BadFrames("it is cut short")
            return b""
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def compress(source: BinaryIO, target: BinaryIO) -> None:
    """Compress what is left of an open file."""
    zstandard.ZstdCompressor(level=3, threads=-1).copy_stream(source, target)


def decompress(source: BinaryIO, target: BinaryIO, size: int) -> None:
    """Decompress an open file that holds just so many bytes.

    Raises:
        BadFrames: it is damaged, or holds others.
    """
    done = 0
    try:
        for block in zstandard.ZstdDecompressor().read_to_iter(source):
            done += len(block)
            if done > size:
                break
            target.write(block)
    except zstandard.ZstdError as error:
        raise BadFrames(str(error)) from error
    if done != size:
        raise BadFrames(f"it does not hold {size} bytes")
