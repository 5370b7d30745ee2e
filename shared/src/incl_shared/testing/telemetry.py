"""Batches of telemetry made and read as tests want them."""

from __future__ import annotations

import json
import struct
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from incl_shared.telemetry.batcher import pack, unpack
from incl_shared.telemetry.wire import BATCH_VERSION, Extra, Group, MetricBatch

Place = tuple[int, int, float, float]
"""(record - first of the batch, step, time, value)."""
Scalars = tuple[int, float, Mapping[str, float]]
"""(step, time, values by name)."""


def record_of(line: bytes | str) -> dict[str, Any]:
    """The record of a spool line; packed values as "v", by name."""
    record: dict[str, Any] = json.loads(line)
    if "b" in record:
        names, packed = record.pop("n"), b64decode(record.pop("b"))
        record["v"] = dict(zip(names, struct.unpack(f"<{len(names)}d", packed), strict=True))
    return record


def points_of(batch: MetricBatch) -> dict[str, list[Place]]:
    """The points of each metric of a batch, in the order of the records."""
    found: dict[str, list[Place]] = {}
    for group in batch.groups:
        steps, times, values = unpack("q", group.steps), unpack("d", group.times), unpack("d", group.values)
        offsets = unpack("I", group.offsets) if group.offsets else range(batch.count)
        width = len(group.names)
        for row, (offset, step, time) in enumerate(zip(offsets, steps, times, strict=True)):
            for name, value in zip(group.names, values[row * width : (row + 1) * width], strict=True):
                found.setdefault(name, []).append((int(offset), int(step), time, value))
    return {name: sorted(points, key=lambda point: point[0]) for name, points in found.items()}


def batch_of(writer: str, first: int, records: Sequence[Scalars | bytes], *, offsets: bool = True) -> MetricBatch:
    """A batch as a shipper makes it. records: scalars, or the spool line of a record that is none."""
    groups: dict[tuple[str, ...], list[tuple[int, Scalars]]] = {}
    extras: list[Extra] = []
    for place, record in enumerate(records):
        if isinstance(record, bytes):
            extras.append(Extra(first + place, record))
        else:
            groups.setdefault(tuple(record[2]), []).append((place, record))
    made = [_group(names, rows, len(records), offsets) for names, rows in groups.items()]
    return MetricBatch(BATCH_VERSION, writer, first, len(records), made, extras)


def _group(names: Iterable[str], rows: list[tuple[int, Scalars]], count: int, offsets: bool) -> Group:
    dense = len(rows) == count or not offsets
    return Group(
        list(names),
        pack("q", [step for _, (step, _, _) in rows]),
        pack("d", [time for _, (_, time, _) in rows]),
        pack("d", [value for _, (_, _, values) in rows for value in values.values()]),
        b"" if dense else pack("I", [place for place, _ in rows]),
    )
