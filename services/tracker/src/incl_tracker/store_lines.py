"""Rows of log lines: writing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from incl_shared.telemetry.wire import Line
from incl_tracker import tables as t
from incl_tracker.domain.loglines import pack
from incl_tracker.memory import WriterKey
from incl_tracker.statements import Insert

MOST_LINES, MOST_CHARACTERS = 4_000, 1 << 20
"""A row that has so many is not gone on with: who reads one of its lines unpacks all."""
_INSERT = Insert(
    t.log_batches, "experiment", "start", "count", "attempt", "rank", "writer", "first", "first_time", "last_time",
    "lines",
)  # fmt: skip


@dataclass(slots=True)
class Row:
    """Lines of one writer that follow one another. start: the lines that the experiment has before them.
    characters: of all lines."""

    experiment: str
    start: int
    key: WriterKey
    first: int
    lines: list[Line]
    characters: int = 0

    def add(self, lines: Sequence[Line]) -> None:
        """Lines that follow."""
        self.lines += lines
        self.characters += sum(len(line.text) for line in lines)

    def takes(self, key: WriterKey, first: int) -> bool:
        """Whether lines of this writer go on here."""
        follows = self.key == key and self.first + len(self.lines) == first
        return follows and len(self.lines) < MOST_LINES and self.characters < MOST_CHARACTERS


def add(connection: sa.Connection, rows: Sequence[Row]) -> None:
    """Store them."""
    _INSERT.run(connection, [_values(row) for row in rows])


def _values(row: Row) -> tuple[str | int | float | bytes, ...]:
    key, times = row.key, [line.time for line in row.lines]
    low, high = min(times), max(times)
    if not math.isfinite(low + high):
        real = [time for time in times if math.isfinite(time)] or [0.0]
        low, high = min(real), max(real)
    return (
        row.experiment, row.start, len(times), key.attempt, key.rank, key.writer, row.first, low, high, pack(row.lines),
    )  # fmt: skip
