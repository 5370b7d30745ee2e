"""The levels of a chart: of each run of points the least and the greatest, so that a spike of one point stays visible.

A level is made of true points, never of means: representatives of representatives are representatives, whatever their
order, and levels of several chunks are joined by joining their points.
"""

from __future__ import annotations

import numpy as np

from incl_tracker.domain.samples import Floats, Mask, Places, Samples

FINE, COARSE = 64, 1024
"""Points of a run in the two levels that are stored beside each chunk."""


def representatives(samples: Samples, width: int) -> Samples:
    """Of each `width` points that follow one another: the least, the greatest, and the first NaN, in their order."""
    count = len(samples)
    if count <= 2:
        return samples
    padded = np.full((-(-count // width), width), np.nan)
    padded.reshape(-1)[:count] = samples.values
    nan = np.isnan(padded)
    rows = np.arange(len(padded)) * width
    least = rows + np.where(nan, np.inf, padded).argmin(axis=1)
    greatest = rows + np.where(nan, -np.inf, padded).argmax(axis=1)
    chosen = np.concatenate((_real(samples.values, least), _real(samples.values, greatest), _nans(nan, rows, count)))
    return samples.take(np.unique(chosen))


def _real(values: Floats, places: Places) -> Places:
    places = places[places < len(values)]
    return places[~np.isnan(values[places])]


def _nans(nan: Mask, rows: Places, count: int) -> Places:
    first = rows + nan.argmax(axis=1)
    kept: Places = first[nan.any(axis=1) & (first < count)]
    return kept


def thinned(samples: Samples, axis: Floats, low: float, high: float, buckets: int) -> Samples:
    """Of each of `buckets` equal ranges of low…high: the least and the greatest point, and the first NaN.

    axis: where each point lies (n, rising). Points that are fewer than two a range are all kept.
    """
    if len(samples) <= 2 * buckets:
        return samples
    bucket = buckets_of(axis, low, high, buckets)
    starts = np.flatnonzero(np.diff(bucket, prepend=-1))
    sizes = np.diff(starts, append=len(bucket))
    values, nan = samples.values, np.isnan(samples.values)
    least = np.repeat(np.minimum.reduceat(np.where(nan, np.inf, values), starts), sizes)
    greatest = np.repeat(np.maximum.reduceat(np.where(nan, -np.inf, values), starts), sizes)
    chosen = [_first_of(mask, bucket) for mask in (values == least, values == greatest, nan)]
    return samples.take(np.unique(np.concatenate(chosen)))


def buckets_of(axis: Floats, low: float, high: float, buckets: int) -> Places:
    """In which of `buckets` equal ranges of low…high each point lies; halves, as the whole may be more than a float."""
    span = high / 2 - low / 2
    if not span > 0:
        return np.zeros(len(axis), np.int64)
    return np.clip((axis / 2 - low / 2) / span * buckets, 0, buckets - 1).astype(np.int64)


def _first_of(mask: Mask, bucket: Places) -> Places:
    """The first place of each bucket where the mask is true."""
    places = np.flatnonzero(mask)
    held = bucket[places]
    kept: Places = places[np.diff(held, prepend=-1) != 0]
    return kept
