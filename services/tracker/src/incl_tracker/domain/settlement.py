"""Is every record of an attempt stored? Counted against what the ranks said that they wrote, never assumed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from incl_shared.events import RankEnd
from incl_shared.states import EndReason
from incl_tracker.domain.ranges import Range, highest, total

SILENT_REASONS = frozenset({EndReason.LOST, EndReason.PREEMPTED, EndReason.INFRA})
"""Ends after which a rank that named no writer may have written all the same."""


MOST = 1 << 40
"""Records that a writer is believed to have, or to have lost: sums of them stay below 64 bits."""


@dataclass(frozen=True, slots=True)
class Wrote:
    """What a rank says that one of its writers wrote; stream is empty when it does not say which."""

    rank: int
    stream: str
    writer: str
    records: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored of one writer."""

    rank: int
    stream: str
    writer: str
    ranges: tuple[Range, ...]
    dropped: int


@dataclass(frozen=True, slots=True)
class Tally:
    """missing: may still come. lost: never will, and known. Together they are the gaps, should nothing more come.

    waits_for: those who lack records.
    """

    missing: int
    lost: int
    waits_for: tuple[Wrote, ...] = field(default=(), compare=False)

    @property
    def gaps(self) -> int:
        """Records that are not there."""
        return self.missing + self.lost


def wrote(ranks: Iterable[RankEnd]) -> list[Wrote]:
    """What the ranks of an ended attempt wrote."""
    return [
        Wrote(rank.rank, count.stream or "", count.writer, min(count.records, MOST), min(count.dropped, MOST))
        for rank in ranks
        for count in rank.writers
    ]


def some_silent(ranks: Iterable[RankEnd]) -> bool:
    """Whether a rank may have written more than anyone knows of."""
    return any(not rank.writers and rank.reason in SILENT_REASONS for rank in ranks)


def tally(said: Iterable[Wrote], stored: Iterable[Stored]) -> Tally:
    """Count. A writer that nobody named counts by its holes: its own numbers show what is missing before the last."""
    unnamed: dict[tuple[int, str], list[Stored]] = {}
    for one in stored:
        unnamed.setdefault((one.rank, one.writer), []).append(one)
    missing = lost = 0
    waits_for: list[Wrote] = []
    for wish in said:
        key = (wish.rank, wish.writer)
        same = unnamed.get(key, [])
        found = [one for one in same if wish.stream in ("", one.stream)]
        unnamed[key] = [one for one in same if one not in found]
        lacking = max(0, wish.records - sum(total(one.ranges, wish.records) for one in found))
        if lacking:
            waits_for.append(wish)
        missing += lacking
        lost += max(wish.dropped, sum(one.dropped for one in found))
    for rest in (one for some in unnamed.values() for one in some):
        missing += highest(rest.ranges) - total(rest.ranges)
        lost += rest.dropped
    return Tally(missing, lost, tuple(waits_for))
