"""What came together: the experiments and writers of a transaction, and which of their records are new."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from incl_shared import subjects
from incl_shared.bus.errors import Poison
from incl_shared.errors import InvalidInput
from incl_shared.ids import is_id
from incl_shared.subjects import Origin
from incl_tracker import store_lines
from incl_tracker import store_writers as writers
from incl_tracker.domain import ranges
from incl_tracker.domain.batches import BadBatch, Table
from incl_tracker.memory import Known, Writer, WriterKey

if TYPE_CHECKING:
    from incl_shared.db import Transaction
    from incl_shared.telemetry.wire import Line

T = TypeVar("T")
MAX_RANGES = 10_000
"""Of a writer: one whose numbers have more holes is none of ours."""


@dataclass(slots=True)
class Place:
    """An experiment in a transaction. told: the newest (step, value) of each metric of rank 0."""

    id: str
    project: str
    points: int
    lines: int
    compact_at: float | None
    known: Known
    stamp: int
    purged: bool
    changed: bool = False
    view_changed: bool = False
    new_points: int = 0
    told: dict[str, tuple[int, float]] = field(default_factory=dict)
    said: list[tuple[int, int, Line]] = field(default_factory=list)
    row: store_lines.Row | None = None


@dataclass(slots=True)
class Work:
    """What one writer sent, in a transaction."""

    place: Place
    origin: Origin
    writer: Writer
    first: int = 0
    tables: list[Table] = field(default_factory=list)
    changed: bool = False
    repeated: int = 0
    refused: int = 0

    @property
    def mark(self) -> int:
        """Up to which number all its records are stored."""
        return ranges.watermark(self.writer.ranges)


@lru_cache(4096)
def origin_of(subject: str) -> Origin:
    """Whose telemetry comes on a subject.

    Raises:
        Poison: it is no subject of telemetry.
    """
    try:
        origin = subjects.parse_telemetry(subject)
    except (InvalidInput, ValueError) as error:
        raise Poison(f"not a telemetry subject: {subject[:200]}") from error
    if not is_id(origin.experiment) or not 1 <= origin.attempt < 1 << 31 or not 0 <= origin.rank < 1 << 31:
        raise Poison(f"not a telemetry subject: {subject[:200]}")
    return origin


def decoded(decode: Callable[[bytes], T], payload: bytes) -> T:
    """What a message says.

    Raises:
        Poison: it says nothing that can be read.
    """
    try:
        return decode(payload)
    except BadBatch as error:
        raise Poison(str(error)) from error


def works_of(tx: Transaction, places: dict[str, Place], wanted: Sequence[tuple[Origin, str, str]]) -> list[Work]:
    """The work of each batch; batches of one writer share theirs."""
    keys = [WriterKey(origin.attempt, origin.rank, stream, writer) for origin, stream, writer in wanted]
    of = [places[origin.experiment] for origin, _, _ in wanted]
    writers.load(tx.connection, [(place.id, place.known, key) for place, key in zip(of, keys, strict=True)])
    made: dict[tuple[str, WriterKey], Work] = {}
    return [
        made.setdefault((place.id, key), Work(place, origin, place.known.use(key)))
        for (origin, _, _), place, key in zip(wanted, of, keys, strict=True)
    ]


def each(works: Iterable[Work]) -> list[Work]:
    """Each of them once."""
    return list({id(work): work for work in works}.values())


def new_of(work: Work, first: int, count: int) -> list[ranges.Range]:
    """Which of these records are not stored yet; from now on they are.

    Of a purged experiment nothing is stored, and its shippers may forget all.
    """
    last = first + count - 1
    wanted = ranges.missing(work.writer.ranges, first, last)
    if work.place.purged:
        work.writer.ranges = ranges.merged(work.writer.ranges, 1, last)
        return []
    work.repeated += count - ranges.total(wanted)
    if wanted:
        work.writer.ranges = ranges.merged(work.writer.ranges, first, last)
        if len(work.writer.ranges) > MAX_RANGES:
            raise Poison(f"the numbers of {work.writer.key.writer} have more than {MAX_RANGES} holes")
        work.changed = work.place.changed = True
    return wanted
