"""From spool lines to the groups of a MetricBatch."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from incl_shared.telemetry.spool import as_extra, scalars
from incl_shared.telemetry.wire import BATCH_VERSION, Extra, Group, LogBatch, MetricBatch

MAX_PAYLOAD = 600_000
"""Bytes of a batch: well below the bus' largest message."""
MAX_RECORDS = 5_000
VALUE_BYTES = 8
RECORD_BYTES = 20
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
    values: list[float] = field(default_factory=list)


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
            cost = RECORD_BYTES + len(names) * VALUE_BYTES + (0 if group else sum(map(len, names)) * 4 + len(names) * 5)
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
            group.values.extend(record.v.values())
        elif extra is not None and cost:
            extras.append(Extra(first + count, extra))
        size += cost
        count += 1
    return MetricBatch(
        BATCH_VERSION, writer, first, count, [_group(names, group, count) for names, group in groups.items()], extras
    )


def _group(names: tuple[str, ...], group: _Group, count: int) -> Group:
    offsets = b"" if len(group.offsets) == count else pack("I", group.offsets)
    return Group(list(names), pack("q", group.steps), pack("d", group.times), pack("d", group.values), offsets)


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
