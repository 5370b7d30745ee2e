"""Points that are in no chunk yet: a row has the records of one writer that came together, whatever their metrics.

A row is msgpack, compressed where several were made one: of each group of records that have the same k metrics
[series: k int64, steps: n int64, times: n float64, values: n * k float64, record by record], all little-endian.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import zstandard

from incl_tracker.domain.samples import Floats, Samples, Steps, joined, zstd

Ids = npt.NDArray[np.int64]
_MAGIC = zstandard.FRAME_HEADER
_Raw = tuple[bytes, bytes, bytes, bytes]
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[_Raw])


@dataclass(frozen=True, slots=True)
class Rows:
    """The n records that have these k metrics. series: k ids. steps, times: n. values: (n, k)."""

    series: Ids
    steps: Steps
    times: Floats
    values: Floats

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def size(self) -> int:
        """About how many bytes they take."""
        return self.values.nbytes + 16 * len(self.steps) + self.series.nbytes

    def columns(self) -> Iterator[tuple[int, Samples]]:
        """(series, its points) of each metric."""
        columns = np.ascontiguousarray(self.values.T)
        for series, values in zip(self.series.tolist(), columns, strict=True):
            yield series, Samples(self.steps, self.times, values)


def encode(groups: Iterable[Rows], *, squeeze: bool = False) -> bytes:
    """Groups as a row. squeeze: compressed."""
    raw = [(g.series.tobytes(), g.steps.tobytes(), g.times.tobytes(), g.values.tobytes()) for g in groups]
    plain = _encoder.encode(raw)
    return zstd.compress(plain) if squeeze else plain


def decode(blob: bytes) -> list[Rows]:
    """The groups of a row.

    Raises:
        ValueError: when it is none.
    """
    return [_rows(raw) for raw in _plain(blob)]


def find(blob: bytes, series: int) -> Samples | None:
    """The points of one series in a row."""
    key = series.to_bytes(8, "little", signed=True)
    found = []
    for raw in _plain(blob):
        if key in raw[0]:
            rows = _rows(raw)
            found += [
                Samples(rows.steps, rows.times, np.ascontiguousarray(rows.values[:, place]))
                for place in np.flatnonzero(rows.series == series).tolist()
            ]
    return joined(found) if found else None


def together(groups: Sequence[Rows]) -> list[Rows]:
    """Groups of the same metrics made one; the records of each keep their order."""
    same: dict[bytes, list[Rows]] = {}
    for group in groups:
        same.setdefault(group.series.tobytes(), []).append(group)
    return [parts[0] if len(parts) == 1 else _one(parts) for parts in same.values()]


def by_series(groups: Sequence[Rows]) -> list[Rows]:
    """Groups of the same metrics made one, and what is in several groups after that for itself: each series once."""
    groups = together(groups)
    every, times = np.unique(np.concatenate([group.series for group in groups]), return_counts=True)
    several = every[times > 1]
    if not len(several):
        return groups
    result: list[Rows] = []
    columns: dict[int, list[Samples]] = {int(series): [] for series in several}
    for group in groups:
        shared = np.isin(group.series, several)
        if not bool(shared.all()):
            result.append(Rows(group.series[~shared], group.steps, group.times, group.values[:, ~shared]))
        for place in np.flatnonzero(shared).tolist():
            samples = Samples(group.steps, group.times, np.ascontiguousarray(group.values[:, place]))
            columns[int(group.series[place])].append(samples)
    for series, parts in columns.items():
        whole = joined(parts)
        result.append(Rows(np.array([series]), whole.steps, whole.times, whole.values.reshape(-1, 1)))
    return result


def _one(parts: Sequence[Rows]) -> Rows:
    return Rows(
        parts[0].series,
        np.concatenate([part.steps for part in parts]),
        np.concatenate([part.times for part in parts]),
        np.concatenate([part.values for part in parts]),
    )


def _plain(blob: bytes) -> list[_Raw]:
    try:
        return _decoder.decode(
            zstd.decompress(blob) if blob[:4] == _MAGIC else blob,
        )
    except (msgspec.MsgspecError, zstandard.ZstdError) as error:
        raise ValueError(f"a tail of points cannot be read: {error}") from error


def _rows(raw: _Raw) -> Rows:
    series, steps = np.frombuffer(raw[0], "<i8"), np.frombuffer(raw[1], "<i8")
    values = np.frombuffer(raw[3], "<f8").reshape(len(steps), len(series))
    return Rows(series, steps, np.frombuffer(raw[2], "<f8"), values)
