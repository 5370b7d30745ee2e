"""Sets of record numbers as sorted, disjoint, closed ranges: which records of a writer are stored."""

from __future__ import annotations

from collections.abc import Sequence

Range = tuple[int, int]
"""First and last, both inside."""


def missing(stored: Sequence[Range], first: int, last: int) -> list[Range]:
    """The parts of first…last that are not stored."""
    holes: list[Range] = []
    position = first
    for begin, end in stored:
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
    result: list[Range] = []
    for begin, end in sorted([*stored, (first, last)]):
        if result and begin <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(result[-1][1], end))
        else:
            result.append((begin, end))
    return result


def total(stored: Sequence[Range], upto: int | None = None) -> int:
    """How many numbers are inside (not counting those above `upto`)."""
    return sum(max(0, (end if upto is None else min(end, upto)) - begin + 1) for begin, end in stored)


def watermark(stored: Sequence[Range]) -> int:
    """Up to which number, from 1, nothing is missing."""
    return stored[0][1] if stored and stored[0][0] <= 1 else 0


def highest(stored: Sequence[Range]) -> int:
    """The greatest number inside; 0 when there is none."""
    return stored[-1][1] if stored else 0
