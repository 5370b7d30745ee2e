"""From spool lines to the groups of a MetricBatch."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from incl_shared.telemetry.records import NO_RECORD, Step, as_extra, scalars
from incl_shared.telemetry.spool import Piece
from incl_shared.telemetry.wire import BATCH_VERSION, MAX_NAMES, Extra, Group, LogBatch, MetricBatch

MAX_PAYLOAD = 900_000
"""Bytes of a batch: below the largest message of a nats-server that nobody has told otherwise (1 MiB)."""
MAX_RECORDS = 5_000
VALUE_BYTES = 8
RECORD_BYTES = 20
MAX_EXTRA = 300_000
_TOO_BIG = b'{"k":"d","n":1}'
"""In place of a record that no message can carry: one that was dropped."""
_SCALARS = b'{"k":"m"'
_NEXT_SCALARS = b"\n" + _SCALARS
_encoder = msgspec.msgpack.Encoder()
_metrics = msgspec.msgpack.Decoder(MetricBatch)
_logs = msgspec.msgpack.Decoder(LogBatch)


class _Any(msgspec.Struct, tag_field="k", tag="m", gc=False):
    """An 'm' record of either form; its names stay as they are written, as those of the next one are the same."""

    t: float
    s: Step
    v: dict[str, float] | None = None
    n: msgspec.Raw = msgspec.Raw(b"")
    b: bytes = b""


_records = msgspec.json.Decoder(_Any)
_names = msgspec.json.Decoder(list[str])


@dataclass(slots=True)
class _Group:
    """Records that have the same names. values: packed, of one record each."""

    offsets: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)


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


def build(piece: Piece, *, exactly: bool = False, max_payload: int = MAX_PAYLOAD) -> MetricBatch:
    """A batch of the first lines of a piece that fit (at least one; all of them with `exactly`).

    A line that is no record takes its number and carries nothing; one too big for any message counts as dropped.
    """
    records = _plain(piece)
    if records is not None:
        batch = _of_scalars(piece, records, None if exactly else max_payload)
        if batch is not None:
            return batch
    return _of_lines(piece, exactly=exactly, max_payload=max_payload)


def _plain(piece: Piece) -> list[_Any] | None:
    """The records of a piece that has nothing but scalars, decoded at once; None for any other."""
    data = piece.data
    # Each line must begin a record: the decoder takes any white space, or none, for what parts two values.
    if not data.startswith(_SCALARS) or data.count(_NEXT_SCALARS) != piece.count - 1:
        return None
    try:
        records = _records.decode_lines(data)
    except NO_RECORD:
        return None
    return records if len(records) == piece.count else None


def _of_scalars(piece: Piece, records: list[_Any], max_payload: int | None) -> MetricBatch | None:
    """A batch of all these records; None: it would be larger than max_payload, or than any message may be, or a record
    has names and values that do not match."""
    groups: dict[tuple[str, ...], _Group] = {}
    group = _Group()
    names: tuple[str, ...] = ()
    raw, width = msgspec.Raw(b""), 0
    for offset, record in enumerate(records):
        if record.v is not None:
            names = tuple(record.v)
            raw, width = msgspec.Raw(b""), len(names) * VALUE_BYTES
            group = groups.setdefault(names, _Group())
            values = pack("d", [*record.v.values()])
        else:
            if record.n != raw:
                found = _unique(record.n)
                if found is None:
                    return None
                raw, names, width = record.n, found, len(found) * VALUE_BYTES
                group = groups.setdefault(names, _Group())
            values = record.b
            if len(values) != width or not width:
                return None
        group.offsets.append(offset)
        group.steps.append(record.s)
        group.times.append(record.t)
        group.values.append(values)
    size = 200 + sum(_size(names, group) for names, group in groups.items())
    if size > (MAX_PAYLOAD if max_payload is None else max_payload) or sum(map(len, groups)) > MAX_NAMES:
        return None
    return _batch(piece, piece.count, groups, [])


def _unique(raw: msgspec.Raw) -> tuple[str, ...] | None:
    try:
        names = _names.decode(raw)
    except NO_RECORD:
        return None
    return tuple(names) if len(set(names)) == len(names) else None


def _size(names: tuple[str, ...], group: _Group) -> int:
    each = RECORD_BYTES + len(names) * VALUE_BYTES
    return len(group.steps) * each + sum(map(len, names)) * 4 + len(names) * 5


def _of_lines(piece: Piece, *, exactly: bool, max_payload: int) -> MetricBatch:
    """The same line by line, whatever they are."""
    groups: dict[tuple[str, ...], _Group] = {}
    extras: list[Extra] = []
    size = 200
    count = named = 0
    for line in piece.lines:
        record = scalars(line)
        extra = None if record is not None else as_extra(line)
        if record is not None:
            names = tuple(record.values)
            group = groups.get(names)
            new = 0 if group else len(names)
            cost = RECORD_BYTES + len(names) * VALUE_BYTES + (sum(map(len, names)) * 4 + new * 5 if new else 0)
            if cost > MAX_PAYLOAD or len(names) > MAX_NAMES:
                record, extra, new = None, _TOO_BIG, 0
            named += new
        if record is None:
            cost = 24 + len(extra) if extra is not None and len(extra) <= MAX_EXTRA else 0
        if count and not exactly and (size + cost > max_payload or named > MAX_NAMES):
            break
        if record is not None:
            if group is None:
                groups[names] = group = _Group()
            group.offsets.append(count)
            group.steps.append(record.s)
            group.times.append(record.t)
            group.values.append(pack("d", [*record.values.values()]))
        elif extra is not None and cost:
            extras.append(Extra(piece.first + count, extra))
        size += cost
        count += 1
    return _batch(piece, count, groups, extras)


def _batch(piece: Piece, count: int, groups: dict[tuple[str, ...], _Group], extras: list[Extra]) -> MetricBatch:
    made = [_group(names, group, count) for names, group in groups.items()]
    return MetricBatch(BATCH_VERSION, piece.writer, piece.first, count, made, extras)


def _group(names: tuple[str, ...], group: _Group, count: int) -> Group:
    offsets = b"" if len(group.offsets) == count else pack("I", group.offsets)
    return Group(list(names), pack("q", group.steps), pack("d", group.times), b"".join(group.values), offsets)


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
