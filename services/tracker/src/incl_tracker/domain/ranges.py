"""Sets of record numbers as sorted, disjoint, closed ranges: which records of a writer are stored."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

Range = tuple[int, int]
"""First and last, both inside."""


def missing(stored: Sequence[Range], first: int, last: int) -> list[Range]:
    """The parts of first…last that are not stored."""
    holes: list[Range] = []
    position = first
    for place in range(_before(stored, first), len(stored)):
        begin, end = stored[place]
        if end < position:
            continue
        if begin > last:
            break
        if begin > position:
            holes.append((position, begin - 1))
        position = end + 1
    if position <= last:
        holes.append((position, last))
    return holes


def merged(stored: Sequence[Range], first: int, last: int) -> list[Range]:
    """The ranges with first…last added; neighbours become one."""
    low = _before(stored, first)
    if low < len(stored) and stored[low][1] + 1 < first:
        low += 1
    high = low
    while high < len(stored) and stored[high][0] <= last + 1:
        first, last = min(first, stored[high][0]), max(last, stored[high][1])
        high += 1
    return [*stored[:low], (first, last), *stored[high:]]


def _before(stored: Sequence[Range], first: int) -> int:
    """The place of the last range that begins before `first`; 0 where there is none."""
    return max(0, bisect_left(stored, (first, first)) - 1)


def total(stored: Sequence[Range], upto: int | None = None) -> int:
    """How many numbers are inside (not counting those above `upto`)."""
    return sum(max(0, (end if upto is None else min(end, upto)) - begin + 1) for begin, end in stored)


def watermark(stored: Sequence[Range]) -> int:
    """Up to which number, from 1, nothing is missing."""
    return stored[0][1] if stored and stored[0][0] <= 1 else 0


def highest(stored: Sequence[Range]) -> int:
    """The greatest number inside; 0 when there is none."""
    return stored[-1][1] if stored else 0
