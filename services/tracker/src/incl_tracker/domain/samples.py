"""Points of one metric as three NumPy arrays, and their form in blobs."""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

Steps = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

RECORD = np.dtype([("step", "<i8"), ("time", "<f8"), ("value", "<f8")])
LEVEL = 1
_HEAD = struct.Struct("<BIBqqBqBq")
"""version, count, width of the steps' differences, first step, stride, width of the times', first time, kind, first."""
_VERSION = 1
_DOUBLE, _SINGLE, _WHOLE = 0, 1, 16


class _Zstd(threading.local):
    """One of each a thread: they let go of the interpreter's lock, and must not be shared meanwhile."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=LEVEL).compress
        self.decompress = zstandard.ZstdDecompressor().decompress


zstd = _Zstd()
"""Compression and its opposite, as every blob of telemetry uses them."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Steps (n, int64), times (n, float64, seconds since the epoch) and values (n, float64)."""

    steps: Steps
    times: Floats
    values: Floats

    def __len__(self) -> int:
        return len(self.steps)

    def take(self, chosen: Places | Mask | slice) -> Samples:
        """The points at these places, or where the mask is true."""
        return Samples(self.steps[chosen], self.times[chosen], self.values[chosen])

    def ordered(self) -> Samples:
        """By step, then by time; what has both alike keeps its order. Itself when it is so already."""
        if is_rising(self.steps):
            return self
        return self.take(np.lexsort((self.times, self.steps)))


EMPTY = Samples(np.empty(0, np.int64), np.empty(0, np.float64), np.empty(0, np.float64))


def is_rising(steps: Steps) -> bool:
    """Whether each step is greater than the one before: in order, and none twice."""
    return bool((steps[1:] > steps[:-1]).all())


def joined(pieces: Sequence[Samples]) -> Samples:
    """All of them, one after the other."""
    if len(pieces) == 1:
        return pieces[0]
    if not pieces:
        return EMPTY
    return Samples(
        np.concatenate([piece.steps for piece in pieces]),
        np.concatenate([piece.times for piece in pieces]),
        np.concatenate([piece.values for piece in pieces]),
    )


def to_records(samples: Samples) -> bytes:
    """24 bytes a point, one point after the other: blobs of several chunks are joined by joining their bytes."""
    rows = np.empty(len(samples), RECORD)
    rows["step"], rows["time"], rows["value"] = samples.steps, samples.times, samples.values
    return rows.tobytes()


def from_records(blob: bytes) -> Samples:
    """What `to_records` made; of several, what their bytes together give."""
    rows: Any = np.frombuffer(blob, RECORD)
    return Samples(
        np.ascontiguousarray(rows["step"]), np.ascontiguousarray(rows["time"]), np.ascontiguousarray(rows["value"])
    )


def encode(samples: Samples) -> bytes:
    """Points as a compressed blob, bit for bit: differences of steps and times, bytes of the values by significance.

    Values that are all of single precision (what a tensor's item() gives) or all whole numbers take fewer bytes.
    """
    steps, stride, step_width = _pack_steps(samples.steps)
    times, time_width = _pack_differences(samples.times.view(np.int64))
    values, kind, first = _pack_values(samples.values)
    head = _HEAD.pack(
        _VERSION, len(samples), step_width, _first(samples.steps), stride, time_width,
        _first(samples.times.view(np.int64)), kind, first,
    )  # fmt: skip
    return zstd.compress(b"".join((head, steps, times, values)))


def decode(blob: bytes) -> Samples:
    """The points of a blob.

    Raises:
        ValueError: when it is none.
    """
    try:
        plain = zstd.decompress(blob)
        version, count, step_width, step, stride, time_width, time, kind, first = _HEAD.unpack_from(plain)
    except (zstandard.ZstdError, struct.error) as error:
        raise ValueError(f"a chunk of points cannot be read: {error}") from error
    if version != _VERSION:
        raise ValueError(f"a chunk of points has the unknown version {version}")
    at = _HEAD.size
    if step_width:
        steps, at = _unpack_differences(plain, at, count, step_width, step)
    else:
        steps = np.arange(count, dtype=np.int64) * stride + step
    bits, at = _unpack_differences(plain, at, count, time_width, time)
    return Samples(steps, bits.view(np.float64), _unpack_values(plain, at, count, kind, first))


def _first(numbers: Steps) -> int:
    return int(numbers[0]) if len(numbers) else 0


def _pack_steps(steps: Steps) -> tuple[bytes, int, int]:
    """(bytes, stride, width); width 0: all differences are the stride, and there are no bytes."""
    differences = np.diff(steps)
    if not len(differences):
        return b"", 0, 0
    stride = int(differences[0])
    if bool((differences == stride).all()):
        return b"", stride, 0
    packed, width = _narrow(differences)
    return packed, 0, width


def _pack_differences(numbers: Steps) -> tuple[bytes, int]:
    differences = np.diff(numbers)
    return _narrow(differences) if len(differences) else (b"", 1)


def _narrow(numbers: Steps) -> tuple[bytes, int]:
    """In the fewest bytes a number that hold them all, the least significant bytes of all first."""
    low, high = int(numbers.min()), int(numbers.max())
    for width in (1, 2, 4):
        if -(1 << (8 * width - 1)) <= low and high < 1 << (8 * width - 1):
            return _shuffled(numbers.astype(f"<i{width}"), width), width
    return _shuffled(numbers.astype("<i8"), 8), 8


def _unpack_differences(plain: bytes, at: int, count: int, width: int, first: int) -> tuple[Steps, int]:
    if count == 0:
        return np.empty(0, np.int64), at
    end = at + (count - 1) * width
    numbers = np.empty(count, np.int64)
    numbers[0] = first
    numbers[1:] = _unshuffled(plain[at:end], width, f"<i{width}")
    return np.cumsum(numbers, out=numbers), end


def _pack_values(values: Floats) -> tuple[bytes, int, int]:
    """(bytes, kind, first)."""
    bits = values.view(np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        single = values.astype("<f4")
        if bool((single.astype(np.float64).view(np.int64) == bits).all()):
            whole = values.astype(np.int64) if _is_whole(values) else None
            if whole is not None and bool((whole.astype(np.float64).view(np.int64) == bits).all()):
                packed, width = _pack_differences(whole)
                return packed, _WHOLE + width, _first(whole)
            return _shuffled(single, 4), _SINGLE, 0
    return _shuffled(values.astype("<f8"), 8), _DOUBLE, 0


def _is_whole(values: Floats) -> bool:
    return len(values) > 0 and bool((np.abs(values) < 1 << 53).all()) and bool((np.rint(values) == values).all())


def _unpack_values(plain: bytes, at: int, count: int, kind: int, first: int) -> Floats:
    if kind >= _WHOLE:
        return _unpack_differences(plain, at, count, kind - _WHOLE, first)[0].astype(np.float64)
    width = 4 if kind == _SINGLE else 8
    return _unshuffled(plain[at : at + count * width], width, f"<f{width}").astype(np.float64)


def _shuffled(numbers: npt.NDArray[Any], width: int) -> bytes:
    return numbers.view(np.uint8).reshape(-1, width).T.tobytes()


def _unshuffled(blob: bytes, width: int, kind: str) -> npt.NDArray[Any]:
    planes = np.frombuffer(blob, np.uint8).reshape(width, -1)
    rows = np.empty(planes.shape[::-1], np.uint8)
    for place, plane in enumerate(planes):
        rows[:, place] = plane
    return rows.view(kind).reshape(-1)
