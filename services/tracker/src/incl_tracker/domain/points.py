"""Points of one metric as three arrays, and their form in blobs (little-endian)."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

_SWAP = sys.byteorder == "big"


def _integers() -> array[int]:
    return array("q")


def _floats() -> array[float]:
    return array("d")


@dataclass(slots=True)
class Points:
    """Steps, times (seconds since the epoch) and values; the three have one length."""

    steps: array[int] = field(default_factory=_integers)
    times: array[float] = field(default_factory=_floats)
    values: array[float] = field(default_factory=_floats)

    def __len__(self) -> int:
        return len(self.steps)

    def extend(self, other: Points) -> None:
        """Add points at the end."""
        self.steps.extend(other.steps)
        self.times.extend(other.times)
        self.values.extend(other.values)

    def take(self, indices: Iterable[int]) -> Points:
        """The points at these places."""
        chosen = list(indices)
        return Points(
            array("q", [self.steps[i] for i in chosen]),
            array("d", [self.times[i] for i in chosen]),
            array("d", [self.values[i] for i in chosen]),
        )

    def blobs(self) -> tuple[bytes, bytes, bytes]:
        """(steps, times, values) as little-endian bytes."""
        return _pack(self.steps), _pack(self.times), _pack(self.values)

    def extremes(self) -> tuple[float | None, float | None]:
        """(least, greatest) value; none when every value is NaN."""
        real = [value for value in self.values if not math.isnan(value)]
        return (min(real), max(real)) if real else (None, None)


def from_blobs(steps: bytes, times: bytes, values: bytes) -> Points:
    """Points of their bytes.

    Raises:
        ValueError: when the three have not one length of whole numbers.
    """
    if not len(steps) == len(times) == len(values) or len(steps) % 8:
        raise ValueError("steps, times and values of a column differ in length")
    points = Points()
    points.steps.frombytes(steps)
    points.times.frombytes(times)
    points.values.frombytes(values)
    if _SWAP:
        for part in (points.steps, points.times, points.values):
            part.byteswap()
    return points


def offsets_of(blob: bytes) -> array[int]:
    """Little-endian uint32 numbers.

    Raises:
        ValueError: when the bytes are not whole numbers.
    """
    numbers = array("I")
    numbers.frombytes(blob)
    if _SWAP:
        numbers.byteswap()
    return numbers


def _pack(numbers: array[int] | array[float]) -> bytes:
    if not _SWAP:
        return numbers.tobytes()
    copy = numbers[:]
    copy.byteswap()
    return copy.tobytes()
