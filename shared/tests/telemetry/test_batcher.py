"""A batch says of each point which record it is of; nothing is lost in it, and it is never too big for the bus."""

from __future__ import annotations

import base64
import json
import math
import struct
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from incl_shared.telemetry.batcher import MAX_PAYLOAD, build, decode_metrics, encode, unpack
from incl_shared.telemetry.spool import Piece, Position, SpoolReader
from incl_shared.telemetry.wire import MAX_NAMES, MetricBatch
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


class Packed(dict[str, Any]):
    """A record whose values go packed, as the SDK writes them once it knows the names."""


packed = metric.filter(lambda record: record["v"]).map(Packed)


def line_of(record: dict[str, Any] | bytes) -> bytes:
    if isinstance(record, bytes):
        return record
    if isinstance(record, Packed):
        numbers = record["v"].values()
        data = base64.b64encode(struct.pack(f"<{len(numbers)}d", *numbers)).decode()
        record = {**{key: record[key] for key in "kts"}, "n": list(record["v"]), "b": data}
    return json.dumps(record, separators=(",", ":")).encode()


def records_of(batch: MetricBatch) -> dict[int, dict[str, tuple[int, float, float]]]:
    """Sequence -> name -> (step, time, value), as whoever stores the batch may take it apart."""
    found: dict[int, dict[str, tuple[int, float, float]]] = {}
    for name, points in points_of(batch).items():
        for offset, step, time, value in points:
            found.setdefault(batch.first + offset, {})[name] = (step, time, value)
    return found


def piece_of(writer: str, first: int, lines: list[bytes]) -> Piece:
    data = b"".join(line + b"\n" for line in lines)
    return Piece(writer, first, len(lines), data, len(data))


def same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


@given(st.lists(metric | packed | extra | st.just(b"garbage"), min_size=1, max_size=20), st.integers(1, 10**6))
@settings(max_examples=80, deadline=None)
def test_every_point_and_every_extra_is_in_the_batch(records: list[dict[str, Any] | bytes], first: int) -> None:
    batch = decode_metrics(encode(build(piece_of("w", first, [line_of(record) for record in records]))))
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
        batch = build(piece_of("w", first, lines[total:]))
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
        batch = build(piece_of("w", len(seen) + 1, lines))
        assert len(encode(batch)) <= MAX_PAYLOAD
        seen += [records_of(batch).get(batch.first + i) for i in range(batch.count)]
        lines = lines[batch.count :]
    assert [None if record is None else set(record) for record in seen] == [None, {"a"}, None, {"a"}]


def test_packed_values_that_do_not_match_their_names_carry_nothing() -> None:
    one, two = (base64.b64encode(struct.pack(f"<{n}d", *range(n))).decode() for n in (1, 2))
    bad = [("[]", ""), ('["a"]', two), ('["a","b"]', one), ('["a","a"]', two), ('["a"]', "!"), ('"a"', one)]
    texts = [f'{{"k":"m","t":1.0,"s":1,"n":{names},"b":"{data}"}}'.encode() for names, data in bad]
    good = f'{{"k":"m","t":1.0,"s":1,"n":["a","b"],"b":"{two}"}}'.encode()
    for lines in ([*texts, good], *([text, good] for text in texts)):
        batch = build(piece_of("w", 1, lines))
        assert (batch.count, batch.extras) == (len(lines), [])
        assert records_of(batch) == {len(lines): {"a": (1, 1.0, 0.0), "b": (1, 1.0, 1.0)}}
    torn = b'{"k":"m","t":1.0,"s":1,"n":["a"' + good
    assert records_of(build(piece_of("w", 1, [torn]))) == {1: {"a": (1, 1.0, 0.0), "b": (1, 1.0, 1.0)}}


def test_dense_groups_need_no_offsets() -> None:
    lines = [f'{{"k":"m","t":{i}.0,"s":{i},"v":{{"a":{i},"b":0.5}}}}'.encode() for i in range(100)]
    batch = build(piece_of("w", 1, lines))
    assert [(group.names, group.offsets) for group in batch.groups] == [(["a", "b"], b"")]
    assert list(unpack("q", batch.groups[0].steps)) == list(range(100))


@given(st.lists(metric | packed | st.sampled_from([b"", b" ", b"x"]), min_size=1, max_size=12), st.booleans())
@settings(max_examples=60, deadline=None)
def test_two_records_on_one_line_never_move_the_numbers_of_others(records: list[Any], glued: bool) -> None:
    lines = [line_of(record) for record in records]
    if glued and len(lines) > 1:
        lines[0:2] = [lines[0] + lines[1], b""]
    batch = build(piece_of("w", 1, lines))
    assert batch.count == len(lines)
    found = records_of(batch)
    for sequence, (line, record) in enumerate(zip(lines, records, strict=True), 1):
        if line == line_of(record) and not isinstance(record, bytes):
            assert set(found.get(sequence, {})) == set(record["v"])
        elif not line.strip():
            assert sequence not in found


def test_a_batch_names_no_more_metrics_than_may_be(tmp_path: Path) -> None:
    lines = [
        json.dumps({"k": "m", "t": 1.0, "s": k, "v": {f"m{k}-{n}": 1.0 for n in range(3_000)}}).encode()
        for k in range(5)
    ]
    (tmp_path / "w.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    piece = SpoolReader(tmp_path).read("w", Position())
    assert piece is not None
    batch = build(piece)
    assert (batch.count, sum(len(group.names) for group in batch.groups)) == (3, 9_000)


def test_a_record_that_no_message_can_carry_counts_as_dropped(tmp_path: Path) -> None:
    big = {"k": "m", "t": 1.0, "s": 1, "v": {f"m{n}": 1.0 for n in range(MAX_NAMES + 1)}}
    small = {"k": "m", "t": 1.0, "s": 2, "v": {"a": 1.0}}
    (tmp_path / "w.jsonl").write_bytes(b"".join(json.dumps(one).encode() + b"\n" for one in (big, small)))
    piece = SpoolReader(tmp_path).read("w", Position())
    assert piece is not None
    batch = build(piece)
    assert batch.count == 2
    assert [(extra.sequence, extra.line) for extra in batch.extras] == [(1, b'{"k":"d","n":1}')]
    assert [group.names for group in batch.groups] == [["a"]]
