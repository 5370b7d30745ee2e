"""Which points of chunks later attempts hide: kept up as chunks are made, and as they come back from the archive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from incl_tracker import tables as t
from incl_tracker.domain.chunking import levels, packed
from incl_tracker.domain.samples import Mask, Samples, Steps, decode
from incl_tracker.domain.visible import among, mask_of
from incl_tracker.memory import Writer
from incl_tracker.statements import Update

_s, _c, _b = t.series.c, t.chunks.c, t.chunk_blobs.c
_HIDE_HEAD = Update(t.chunks, '"hidden" = ?, "coarse" = ?', "series", "number")
_HIDE_BLOBS = Update(t.chunk_blobs, '"fine" = ?, "mask" = ?', "series", "number")
_SAME = (
    sa.select(_s.metric, _s.rank, _s.id, _s.attempt)
    .where(_s.experiment == sa.bindparam("experiment"), _s.metric.in_(sa.bindparam("names", expanding=True)))
    .order_by(_s.id)
    .with_for_update()
)
_OTHERS = _SAME.where(_s.rank == sa.bindparam("rank"), _s.attempt != sa.bindparam("attempt"))
_TOUCHING = sa.select(_c.number, _c.count.label("points")).where(
    _c.series == sa.bindparam("key"),
    _c.last_step >= sa.bindparam("low", type_=sa.BigInteger),
    _c.first_step <= sa.bindparam("high", type_=sa.BigInteger),
)
_ONE = sa.select(_b.mask, _b.data).where(_b.series == sa.bindparam("key"), _b.number == sa.bindparam("place"))
_AT_ONCE = 500


@dataclass(slots=True)
class Others:
    """The series of other attempts that have the same metric and rank: by one's own series, (id, attempt) of each.

    attempt: of one's own series.
    """

    attempt: int
    by_series: Mapping[int, Sequence[tuple[int, int]]]

    @classmethod
    def none(cls) -> Others:
        """There are none."""
        return cls(0, {})

    @classmethod
    def of(cls, connection: sa.Connection, experiment: str, writer: Writer, series: Sequence[int]) -> Others:
        """Those of some series of a writer; they are locked."""
        wanted = set(series)
        names = {name: key for name, key in writer.series.items() if key in wanted}
        found: dict[int, list[tuple[int, int]]] = {}
        bound = {"experiment": experiment, "rank": writer.key.rank, "attempt": writer.key.attempt}
        every = list(names)
        for begin in range(0, len(every), _AT_ONCE):
            for name, _, key, attempt in connection.execute(
                _OTHERS, bound | {"names": every[begin : begin + _AT_ONCE]}
            ):
                found.setdefault(names[name], []).append((key, attempt))
        return cls(writer.key.attempt, found)

    @classmethod
    def of_each(cls, connection: sa.Connection, experiment: str, names: Mapping[int, str]) -> dict[int, Others]:
        """Those of each of some series (id -> metric) of an experiment, whosever they are; all are locked."""
        every = sorted(set(names.values()))
        same: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for begin in range(0, len(every), _AT_ONCE):
            bound = {"experiment": experiment, "names": every[begin : begin + _AT_ONCE]}
            for name, rank, key, attempt in connection.execute(_SAME, bound):
                same.setdefault((name, rank), []).append((key, attempt))
        return {
            key: cls(attempt, {key: [other for other in alike if other[1] != attempt]})
            for alike in same.values()
            for key, attempt in alike
            if key in names
        }

    def hidden(self, connection: sa.Connection, series: int, steps: Steps) -> Mask | None:
        """Which of one's own points a later attempt has logged again."""
        mask: Mask | None = None
        for key, attempt in self.by_series.get(series, ()):
            if attempt > self.attempt:
                for _, _, theirs in _touching(connection, key, steps):
                    again = among(steps, theirs.steps)
                    mask = again if mask is None else mask | again
        return mask

    def hide(self, connection: sa.Connection, series: int, steps: Steps) -> None:
        """Hide the points of earlier attempts that have these steps."""
        for key, attempt in self.by_series.get(series, ()):
            if attempt < self.attempt:
                for number, before, theirs in _touching(connection, key, steps):
                    hide_more(connection, key, number, theirs, before, among(theirs.steps, steps))


def hide_more(
    connection: sa.Connection, series: int, number: int, samples: Samples, before: Mask | None, more: Mask | None
) -> None:
    """Hide more points of a chunk than were hidden before; its levels are made anew."""
    if more is None or not bool(more.any()):
        return
    mask = more if before is None else before | more
    if before is None or not np.array_equal(mask, before):
        coarse, fine = levels(samples, mask)
        _HIDE_HEAD.run(connection, [(int(mask.sum()), coarse, series, number)])
        _HIDE_BLOBS.run(connection, [(fine, packed(mask), series, number)])


def _touching(connection: sa.Connection, series: int, steps: Steps) -> Iterator[tuple[int, Mask | None, Samples]]:
    """(number, which are hidden, points) of the chunks that touch these steps.

    Not of those that are archived: what is hidden in them, and by them, is made up for when they come back.
    """
    bound = {"key": series, "low": int(steps.min()), "high": int(steps.max())}
    for number, count in connection.execute(_TOUCHING, bound).all():
        mask, data = connection.execute(_ONE, {"key": series, "place": number}).one()
        if data is not None:
            yield number, mask_of(mask, count), decode(data)
