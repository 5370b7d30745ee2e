"""A batch says of each point which record it is of; nothing is lost in it, and it is never too big for the bus."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from incl_shared.telemetry.batcher import MAX_PAYLOAD, build, decode_metrics, encode, unpack
from incl_shared.telemetry.wire import MetricBatch
from incl_shared.testing.telemetry import points_of

names = st.sampled_from(["loss", "val/acc", "lr", "ä", "x"])
values = st.floats() | st.integers(-(2**53), 2**53)
metric = st.fixed_dictionaries(
    {
        "k": st.just("m"),
        "t": st.floats(0, 2e9),
        "s": st.integers(-(2**63), 2**63 - 1),
        "v": st.dictionaries(names, values, max_size=4),
    }
)
extra = st.fixed_dictionaries({"k": st.sampled_from("acdfp"), "t": st.floats(0, 2e9), "title": st.text(max_size=5)})


def line_of(record: dict[str, Any] | bytes) -> bytes:
    return record if isinstance(record, bytes) else json.dumps(record, separators=(",", ":")).encode()


def records_of(batch: MetricBatch) -> dict[int, dict[str, tuple[int, float, float]]]:
    """Sequence -> name -> (step, time, value), as whoever stores the batch may take it apart."""
    found: dict[int, dict[str, tuple[int, float, float]]] = {}
    for name, points in points_of(batch).items():
        for offset, step, time, value in points:
            found.setdefault(batch.first + offset, {})[name] = (step, time, value)
    return found


def same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


@given(st.lists(metric | extra | st.just(b"garbage"), min_size=1, max_size=20), st.integers(1, 10**6))
@settings(max_examples=80, deadline=None)
def test_every_point_and_every_extra_is_in_the_batch(records: list[dict[str, Any] | bytes], first: int) -> None:
    batch = decode_metrics(encode(build("w", first, [line_of(record) for record in records])))
    assert (batch.first, batch.count) == (first, len(records))
    assert len({tuple(group.names) for group in batch.groups}) == len(batch.groups)
    stored = records_of(batch)
    for sequence, record in enumerate(records, first):
        if isinstance(record, bytes) or record["k"] != "m":
            assert sequence not in stored
            continue
        assert set(stored.get(sequence, {})) == set(record["v"])
        for name, (step, time, value) in stored.get(sequence, {}).items():
            assert (step, time) == (record["s"], record["t"])
            assert same(value, float(record["v"][name]))
    expected = [(n, line_of(r)) for n, r in enumerate(records, first) if isinstance(r, dict) and r["k"] != "m"]
    assert [(e.sequence, json.loads(e.line)) for e in batch.extras] == [(n, json.loads(line)) for n, line in expected]


def test_a_batch_stops_before_it_is_too_big() -> None:
    wide = json.dumps({"k": "m", "t": 1.0, "s": 1, "v": {f"metric-{i}": i for i in range(1000)}}, separators=(",", ":"))
    lines = [wide.encode()] * 200
    first, total = 1, 0
    while total < len(lines):
        batch = build("w", first, lines[total:])
        assert len(encode(batch)) <= MAX_PAYLOAD
        assert batch.count >= 1
        total += batch.count
        first += batch.count
    assert total == len(lines)


def test_a_record_too_big_for_any_message_takes_its_number_and_no_place() -> None:
    alert = json.dumps({"k": "a", "t": 1.0, "title": "x" * 2_000_000}).encode()
    monster = json.dumps({"k": "m", "t": 1.0, "s": 1, "v": {f"m{i}": i for i in range(50_000)}}).encode()
    small = b'{"k":"m","t":1.0,"s":2,"v":{"a":1}}'
    lines = [alert, small, monster, small]
    seen = []
    while lines:
        batch = build("w", len(seen) + 1, lines)
        assert len(encode(batch)) <= MAX_PAYLOAD
        seen += [records_of(batch).get(batch.first + i) for i in range(batch.count)]
        lines = lines[batch.count :]
    assert [None if record is None else set(record) for record in seen] == [None, {"a"}, None, {"a"}]


def test_dense_groups_need_no_offsets() -> None:
    lines = [f'{{"k":"m","t":{i}.0,"s":{i},"v":{{"a":{i},"b":0.5}}}}'.encode() for i in range(100)]
    batch = build("w", 1, lines)
    assert [(group.names, group.offsets) for group in batch.groups] == [(["a", "b"], b"")]
    assert list(unpack("q", batch.groups[0].steps)) == list(range(100))
