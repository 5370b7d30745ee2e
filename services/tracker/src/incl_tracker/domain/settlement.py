"""Is every record of an attempt stored? Counted against what the ranks said that they wrote, never assumed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from incl_shared.events import RankEnd
from incl_shared.states import EndReason
from incl_tracker.domain.ranges import Range, highest, total

SILENT_REASONS = frozenset({EndReason.LOST, EndReason.PREEMPTED, EndReason.INFRA})
"""Ends after which a rank that named no writer may have written all the same."""


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
    """missing: may still come. lost: never will, and known. Together they are the gaps, should nothing more come."""

    missing: int
    lost: int

    @property
    def gaps(self) -> int:
        """Records that are not there."""
        return self.missing + self.lost


def wrote(ranks: Iterable[RankEnd]) -> list[Wrote]:
    """What the ranks of an ended attempt wrote."""
    return [
        Wrote(rank.rank, count.stream or "", count.writer, count.records, count.dropped)
        for rank in ranks
        for count in rank.writers
    ]


def some_silent(ranks: Iterable[RankEnd]) -> bool:
    """Whether a rank may have written more than anyone knows of."""
    return any(not rank.writers and rank.reason in SILENT_REASONS for rank in ranks)


def tally(said: Iterable[Wrote], stored: Iterable[Stored]) -> Tally:
    """Count. A writer that nobody named counts by its holes: its own numbers show what is missing before the last."""
    unnamed = {(s.rank, s.stream, s.writer): s for s in stored}
    missing = lost = 0
    for wish in said:
        keys = [k for k in unnamed if k[0] == wish.rank and k[2] == wish.writer and wish.stream in ("", k[1])]
        found = [unnamed.pop(key) for key in keys]
        missing += max(0, wish.records - sum(total(s.ranges, wish.records) for s in found))
        lost += max(wish.dropped, sum(s.dropped for s in found))
    for rest in unnamed.values():
        missing += highest(rest.ranges) - total(rest.ranges)
        lost += rest.dropped
    return Tally(missing, lost)
