"""Small chunks become one: nothing is lost or doubled, each point is written few times, levels stay true."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from incl_tracker.domain import compaction
from incl_tracker.domain.compaction import BIG, Batch, Piece, merged, once_ended, rows_of, runs, while_running
from incl_tracker.domain.samples import Samples, decode, from_records

points = st.tuples(st.integers(-(2**63), 2**63 - 1), st.floats(0, 2e9), st.floats())
piece = st.lists(st.tuples(points, st.booleans()), min_size=1, max_size=30)


def piece_of(rows: list[tuple[tuple[int, float, float], bool]]) -> Piece:
    steps = np.array([p[0] for p, _ in rows], np.int64)
    samples = Samples(steps, np.array([p[1] for p, _ in rows]), np.array([p[2] for p, _ in rows]))
    return Piece(samples, np.array([hidden for _, hidden in rows]))


def bag(found: Piece) -> list[tuple[int, bytes, bytes, bool]]:
    s = found.samples
    mask = np.zeros(len(s), np.bool_) if found.mask is None else found.mask
    rows = zip(s.steps, s.times, s.values, mask, strict=True)
    return sorted((int(step), time.tobytes(), value.tobytes(), bool(hidden)) for step, time, value, hidden in rows)


@given(st.lists(piece, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_a_merge_keeps_every_point_bit_for_bit_and_what_is_hidden(
    made: list[list[tuple[tuple[int, float, float], bool]]],
) -> None:
    pieces = [piece_of(rows) for rows in made]
    whole = merged(pieces)
    assert bag(whole) == sorted(row for one in pieces for row in bag(one))
    assert bool((whole.samples.steps[1:] >= whole.samples.steps[:-1]).all())
    chunk, blobs = rows_of(whole)
    again = decode(blobs["data"])
    mask = None if blobs["mask"] is None else np.unpackbits(np.frombuffer(blobs["mask"], np.uint8), count=len(again))
    assert bag(Piece(again, None if mask is None else mask.astype(np.bool_))) == bag(whole)
    visible = again.values if mask is None else again.values[mask == 0]
    real = visible[~np.isnan(visible)]
    for level in (chunk["coarse"], blobs["fine"]):
        values = from_records(level).values
        shown = values[~np.isnan(values)]
        assert (len(shown) > 0) == (len(real) > 0)
        if len(real):
            assert (shown.min(), shown.max()) == (real.min(), real.max())


@given(st.lists(st.integers(1, 9000), max_size=60))
@settings(max_examples=100, deadline=None)
def test_a_plan_merges_whole_neighbours_that_fit_and_comes_to_an_end(counts: list[int]) -> None:
    sizes = dict(enumerate(counts))
    rounds = 0
    while chosen := once_ended(sizes.items()):
        assert len(chosen) > 1
        between = [n for n in sizes if chosen[0] <= n <= chosen[-1]]
        assert sorted(between) == chosen
        assert sum(sizes[n] for n in chosen) <= BIG
        sizes[chosen[0]] = sum(sizes.pop(n) for n in chosen)
        rounds += 1
        assert rounds <= len(counts)
    assert sum(sizes.values()) == sum(counts)
    ordered = [sizes[n] for n in sorted(sizes)]
    assert all(a + b > BIG for a, b in pairwise(ordered))


def test_a_running_series_rewrites_each_point_only_a_few_times() -> None:
    sizes: dict[int, int] = {}
    written = 0
    for number in range(2_000):
        sizes[number] = 50
        if chosen := while_running(sizes.items()):
            total = sum(sizes.pop(n) for n in chosen)
            sizes[chosen[0]] = total
            written += total
    assert len(sizes) < 2_000 * 50 / compaction.SMALL + 2 * compaction.PATIENCE
    assert written < 5 * 2_000 * 50
    assert sum(sizes.values()) == 2_000 * 50


def test_lines_of_one_writer_that_follow_one_another_become_one_batch() -> None:
    mine, other = (1, 0, "log"), (1, 1, "log")
    batches = [
        Batch(0, 10, mine, 1, 100),
        Batch(10, 5, mine, 11, 100),
        Batch(15, 5, other, 1, 100),
        Batch(20, 5, mine, 16, 100),
        Batch(25, 5, mine, 22, 100),  # one of its lines is missing before
        Batch(30, 3990, mine, 27, 100),
        Batch(4020, 20, mine, 4017, 100),
        Batch(4040, 20, mine, 4037, 100),
        Batch(4060, 20, mine, 4057, 400_000),
    ]
    assert [[b.start for b in run] for run in runs(batches)] == [[0, 10], [25, 30], [4020, 4040]]
