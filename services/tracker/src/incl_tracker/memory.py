"""What the ingest remembers of experiments between transactions, so that a batch costs few questions.

It is true only as long as nobody else stored telemetry of the experiment, and nothing was undone: each transaction
draws a new stamp for the experiment's row, and what is remembered under another stamp or epoch is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from incl_tracker.domain.ranges import Range
from incl_tracker.domain.settlement import Wrote
from incl_tracker.domain.summaries import Summaries

ITEMS = 200_000
"""Metrics, series and writers that are remembered at most; about 300 bytes each."""
_NAMES = 128


class WriterKey(NamedTuple):
    """Whose records, and which of the two kinds: metrics or logs."""

    attempt: int
    rank: int
    stream: str
    writer: str


class Columns(NamedTuple):
    """What k names are to a writer: ids of its series, places in the summaries, how many are no samples of the node."""

    series: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    counted: int


@dataclass(slots=True)
class Writer:
    """A row of `writers`, and what is known of its series (metric -> id, id -> number of the next chunk)."""

    key: WriterKey
    ranges: list[Range] = field(default_factory=list)
    dropped: int = 0
    points: int = 0
    tail_rows: int = 0
    tail_points: int = 0
    tail_bytes: int = 0
    series: dict[str, int] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)
    columns: dict[tuple[str, ...], Columns] = field(default_factory=dict)
    columns_size: int = 0

    @property
    def size(self) -> int:
        """How many things are known of it, as `Known.size` counts them."""
        return 2 + len(self.series) + self.columns_size

    def remember(self, names: tuple[str, ...], columns: Columns) -> None:
        """Names that come again and again; whoever logs others each time is not remembered for it."""
        if len(self.columns) >= _NAMES:
            self.columns.clear()
            self.columns_size = 0
        self.columns[names] = columns
        self.columns_size += 1 + len(names) // 4


@dataclass(slots=True)
class Known:
    """One experiment. summaries: none until they are needed. attempts: that have points. small: small chunks
    that were made since the experiment was last given to be compacted. size: how many things are known of it.
    lacking: by attempt that has ended, one writer whose records are not all here."""

    stamp: int
    epoch: int
    writers: dict[WriterKey, Writer] = field(default_factory=dict)
    summaries: Summaries | None = None
    attempts: set[int] | None = None
    size: int = 1
    counted: int = 0
    small: int = 0
    lacking: dict[int, Wrote] = field(default_factory=dict)

    def shed(self, items: int) -> None:
        """Forget writers, those used longest ago first, until there are no more things than these, or one writer."""
        self.size = 1 + len(self.summaries or ()) + sum(writer.size for writer in self.writers.values())
        while self.size > items and len(self.writers) > 1:
            self.size -= self.writers.pop(next(iter(self.writers))).size

    def use(self, key: WriterKey) -> Writer:
        """A writer that is known; it is the one used last."""
        writer = self.writers[key] = self.writers.pop(key)
        return writer


class Memory:
    """Experiments, those used last; bounded by the number of things that are known of them. Of the writer thread."""

    def __init__(self, items: int = ITEMS) -> None:
        self._items = items
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._size = 0
        self._void = False

    def __len__(self) -> int:
        return len(self._known)

    def of(self, experiment: str, stamp: int, epoch: int) -> Known:
        """What is known of an experiment whose row has this stamp and epoch: nothing when it has changed since."""
        known = self._known.get(experiment)
        if known is None or (known.stamp, known.epoch) != (stamp, epoch):
            if known is not None:
                self._size -= known.counted
            known = self._known[experiment] = Known(stamp, epoch)
        self._known.move_to_end(experiment)
        return known

    def forget(self) -> None:
        """Forget everything before the next batch: somebody else may own the experiments. From any thread."""
        self._void = True

    def begin(self) -> None:
        """A batch begins."""
        if self._void:
            self._void = False
            self._known.clear()
            self._size = 0

    def end(self, used: Iterable[Known]) -> None:
        """A batch ends: forget what was not used for the longest time, as far as there is too much."""
        for known in used:
            self._size += known.size - known.counted
            known.counted = known.size
        while self._size > self._items and len(self._known) > 1:
            _, known = self._known.popitem(last=False)
            self._size -= known.counted
        if self._size > self._items:
            for known in self._known.values():
                known.shed(self._items)
                known.counted = known.size
                self._size = known.size
