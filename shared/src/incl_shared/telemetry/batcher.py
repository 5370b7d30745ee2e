"""From spool lines to the columns of a MetricBatch."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from incl_shared.telemetry.spool import as_extra, scalars
from incl_shared.telemetry.wire import BATCH_VERSION, Column, Extra, LogBatch, MetricBatch

MAX_PAYLOAD = 600_000
"""Bytes of a batch: well below the bus' largest message."""
MAX_RECORDS = 5_000
POINT_BYTES = 28
MAX_EXTRA = 300_000
_encoder = msgspec.msgpack.Encoder()
_metrics = msgspec.msgpack.Decoder(MetricBatch)
_logs = msgspec.msgpack.Decoder(LogBatch)


@dataclass(slots=True)
class _Group:
    """Records that have the same names."""

    offsets: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    rows: list[Sequence[float]] = field(default_factory=list)


def pack(kind: str, values: Sequence[float]) -> bytes:
    """Numbers as a little-endian array; kind as the array module names it: q int64, d float64, I uint32."""
    packed = array(kind, values)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack(kind: str, data: bytes) -> array[int] | array[float]:
    """The numbers of a little-endian array."""
    numbers: array[int] | array[float] = array(kind)
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def build(
    writer: str, first: int, lines: Sequence[bytes], *, exactly: bool = False, max_payload: int = MAX_PAYLOAD
) -> MetricBatch:
    """A batch of the first of these lines that fit (at least one; all of them with `exactly`).

    A line that is no record takes its number and carries nothing, and so does one too big for any message.
    """
    groups: dict[tuple[str, ...], _Group] = {}
    extras: list[Extra] = []
    size = 200
    count = 0
    for line in lines:
        record = scalars(line)
        extra = None if record is not None else as_extra(line)
        if record is not None:
            names = tuple(record.v)
            group = groups.get(names)
            cost = len(names) * POINT_BYTES + (0 if group else sum(map(len, names)) * 4 + len(names) * 40)
        else:
            cost = 24 + len(extra) if extra is not None and len(extra) <= MAX_EXTRA else 0
        if count and not exactly and size + cost > max_payload:
            break
        if record is not None and cost <= MAX_PAYLOAD:
            if group is None:
                groups[names] = group = _Group()
            group.offsets.append(count)
            group.steps.append(record.s)
            group.times.append(record.t)
            group.rows.append(tuple(record.v.values()))
        elif extra is not None and cost:
            extras.append(Extra(first + count, extra))
        size += cost
        count += 1
    return MetricBatch(BATCH_VERSION, writer, first, count, _columns(groups, count), extras)


def _columns(groups: dict[tuple[str, ...], _Group], count: int) -> list[Column]:
    owners: dict[str, list[_Group]] = {}
    for names, group in groups.items():
        for name in names:
            owners.setdefault(name, []).append(group)
    columns: list[Column] = []
    for names, group in groups.items():
        alone = [name for name in names if len(owners[name]) == 1]
        if not alone:
            continue
        steps, times = pack("q", group.steps), pack("d", group.times)
        offsets = b"" if len(group.offsets) == count else pack("I", group.offsets)
        for name, values in zip(names, zip(*group.rows, strict=True), strict=True):
            if len(owners[name]) == 1:
                columns.append(Column(name, steps, times, pack("d", values), offsets))
    shared = [name for name, held in owners.items() if len(held) > 1]
    columns.extend(_merged(name, groups, count) for name in shared)
    return columns


def _merged(name: str, groups: dict[tuple[str, ...], _Group], count: int) -> Column:
    points: list[tuple[int, int, float, float]] = []
    for names, group in groups.items():
        if name in names:
            at = names.index(name)
            values = [row[at] for row in group.rows]
            points.extend(zip(group.offsets, group.steps, group.times, values, strict=True))
    points.sort(key=lambda point: point[0])
    offsets, steps, times, values = (list(part) for part in zip(*points, strict=True))
    dense = b"" if len(points) == count else pack("I", offsets)
    return Column(name, pack("q", steps), pack("d", times), pack("d", values), dense)


def encode(batch: MetricBatch | LogBatch) -> bytes:
    """A batch as the payload of a message."""
    return _encoder.encode(batch)


def decode_metrics(payload: bytes) -> MetricBatch:
    """The batch of a METRICS message.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return _metrics.decode(payload)


def decode_logs(payload: bytes) -> LogBatch:
    """The batch of a LOGS message.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return _logs.decode(payload)
