"""The summaries of the metrics of one experiment, kept up with each batch; all metrics of a batch at once.

The newest point is the one of the latest attempt with the greatest step (then time). A step that a later attempt
logs again supersedes the earlier attempt's, also in the extremes. Nothing here depends on the order of arrival.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from incl_tracker.domain.samples import Floats, Mask, Places, Samples, Steps, is_rising

ROW = np.dtype(
    [
        ("rank", "i8"), ("points", "i8"), ("last", "f8"), ("last_step", "i8"), ("last_time", "f8"),
        ("last_attempt", "i8"), ("minimum", "f8"), ("min_step", "i8"), ("min_attempt", "i8"), ("maximum", "f8"),
        ("max_step", "i8"), ("max_attempt", "i8"),
    ]
)  # fmt: skip
"""A summary. points: all that are stored of this rank, superseded ones included. An extreme that is NaN: none."""
COLUMNS: tuple[str, ...] = ROW.names or ()
_LOW, _HIGH = ("minimum", "min_step", "min_attempt"), ("maximum", "max_step", "max_attempt")
_GREATEST = np.iinfo(np.int64).max
_FIRST = 16
Rows = npt.NDArray[Any]


class Extreme(NamedTuple):
    """The least or greatest value, where it was first reached."""

    value: float
    step: int
    attempt: int


class Fresh(NamedTuple):
    """What a batch told: its newest points by metric, and the metrics whose extremes must be computed again."""

    steps: Steps
    values: Floats
    stale: Places


class Summaries:
    """The summaries of an experiment; metrics are named by their places."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._places: dict[str, int] = {}
        self._rows = np.zeros(_FIRST, ROW)
        self._touched: list[Places] = []

    def __len__(self) -> int:
        return len(self.names)

    def load(self, stored: Sequence[Sequence[Any]]) -> None:
        """Take over stored ones, each (name, *values in the order of COLUMNS), None as the database has it."""
        places = self.places(row[0] for row in stored)
        for number, column in enumerate(COLUMNS, 1):
            nothing = 0 if ROW[column].kind == "i" else np.nan
            values = [nothing if row[number] is None else row[number] for row in stored]
            self._rows[column][places] = np.array(values, ROW[column])

    def fitting(self, names: Sequence[str], most: int) -> list[int] | None:
        """Which of some names are metrics here, or can become ones while there are at most so many; none: all."""
        room = most - len(self.names)
        new = [place for place, name in enumerate(names) if name not in self._places]
        if len(new) <= room:
            return None
        refused = set(new[max(0, room) :])
        return [place for place in range(len(names)) if place not in refused]

    def places(self, names: Iterable[str]) -> Places:
        """Where these metrics are; those that are new get a place."""
        found = []
        for name in names:
            place = self._places.get(name)
            if place is None:
                place = self._places[name] = len(self.names)
                self.names.append(name)
            found.append(place)
        if len(self.names) > len(self._rows):
            grown = np.zeros(2 * len(self.names), ROW)
            grown[: len(self._rows)] = self._rows
            self._rows = grown
        return np.array(found, np.int64)

    def add(self, places: Places, rank: int, attempt: int, steps: Steps, times: Floats, values: Floats) -> Fresh:
        """Add points of one attempt: n records (one at least) of the k metrics at `places`; values: (n, k).

        The lowest rank that logged a metric is the one that is summarised.
        """
        fresh = summarise(rank, attempt, steps, times, values)
        old = self._rows[places]
        new = (old["points"] == 0) | (rank < old["rank"])
        same = ~new & (rank == old["rank"])
        stale = np.zeros(len(places), np.bool_)
        if bool(same.any()):
            stale = same & _at_risk(old, attempt, steps)
            both = _combined(old, fresh)
            old[same] = both[same]
        old[new] = fresh[new]
        self._rows[places] = old
        self._touched.append(places[new | same])
        return Fresh(fresh["last_step"], fresh["last"], places[stale])

    def rank_of(self, place: int) -> int:
        """The rank that is summarised."""
        return int(self._rows["rank"][place])

    def set_extremes(self, place: int, least: Extreme | None, greatest: Extreme | None) -> None:
        """Put extremes that were computed from all points."""
        for columns, extreme in ((_LOW, least), (_HIGH, greatest)):
            for column, value in zip(columns, extreme or Extreme(np.nan, 0, 0), strict=True):
                self._rows[column][place] = value
        self._touched.append(np.array([place]))

    def changed(self) -> list[tuple[Any, ...]]:
        """(name, *values in the order of COLUMNS, as the database has them) of what changed since the last call."""
        if not self._touched:
            return []
        places = np.unique(np.concatenate(self._touched))
        self._touched = []
        names = self.names
        return [
            (names[place], *_stored(row))
            for place, row in zip(places.tolist(), self._rows[places].tolist(), strict=True)
        ]


def _stored(row: tuple[Any, ...]) -> tuple[Any, ...]:
    rank, points, last, step, time, attempt, *extremes = row
    low, high = extremes[:3], extremes[3:]
    return (
        rank, points, None if last != last else last, step, time, attempt,
        *((None, None, None) if low[0] != low[0] else low),
        *((None, None, None) if high[0] != high[0] else high),
    )  # fmt: skip


def summarise(rank: int, attempt: int, steps: Steps, times: Floats, values: Floats) -> Rows:
    """The summaries of n records of k metrics, of one attempt."""
    count, width = values.shape
    rows = np.zeros(width, ROW)
    rows["rank"], rows["points"], rows["last_attempt"] = rank, count, attempt
    rows["last_step"], rows["last_time"], rows["last"] = _newest(steps, moments(times), values)
    rising = count == 1 or is_rising(steps)
    for (value, step, its_attempt), best in ((_LOW, np.fmin), (_HIGH, np.fmax)):
        with np.errstate(invalid="ignore"):
            extreme = best.reduce(values, axis=0)
        hit = values == extreme
        if rising:
            rows[step] = steps[hit.argmax(axis=0)]
        else:
            rows[step] = np.where(hit, steps[:, None], _GREATEST).min(axis=0)
        rows[value], rows[its_attempt] = extreme, attempt
    return rows


def moments(times: Floats) -> Floats:
    """Times as they are compared and summarised: 0 where there is no sensible one."""
    finite = np.isfinite(times)
    return times if bool(finite.all()) else np.where(finite, times, 0.0)


def _newest(steps: Steps, times: Floats, values: Floats) -> tuple[int, float, Floats]:
    """Its step, its time, and its value in each column: the greatest where several points have both alike."""
    step = steps.max()
    places = np.flatnonzero(steps == step)
    if len(places) > 1:
        latest = times[places].max()
        places = places[times[places] == latest]
    with np.errstate(invalid="ignore"):
        return int(step), float(times[places[0]]), np.fmax.reduce(values[places], axis=0)


def _at_risk(old: Rows, attempt: int, steps: Steps) -> Mask:
    """Whose extremes may be superseded by these steps of an attempt, or these points by what is there."""
    risk: Mask = attempt < old["last_attempt"]
    for value, step, its_attempt in (_LOW, _HIGH):
        earlier = (old[its_attempt] < attempt) & ~np.isnan(old[value])
        if bool(earlier.any()):
            risk |= earlier & np.isin(old[step], steps)
    return risk


def _combined(old: Rows, new: Rows) -> Rows:
    """Both together, where neither supersedes a point of the other."""
    both = old.copy()
    newer = _is_newer(new, old)
    both[newer] = new[newer]
    both["points"] = old["points"] + new["points"]
    for columns, sign in ((_LOW, 1.0), (_HIGH, -1.0)):
        better = _is_better(new, old, columns, sign)
        for column in columns:
            both[column] = np.where(better, new[column], old[column])
    return both


def _is_newer(one: Rows, two: Rows) -> Mask:
    newer = np.zeros(len(one), np.bool_)
    alike = np.ones(len(one), np.bool_)
    for column in ("last_attempt", "last_step", "last_time"):
        newer |= alike & (one[column] > two[column])
        alike &= one[column] == two[column]
    greater: Mask = (one["last"] > two["last"]) | np.isnan(two["last"])
    return newer | (alike & greater)


def _is_better(one: Rows, two: Rows, columns: tuple[str, str, str], sign: float) -> Mask:
    value, step, attempt = columns
    mine, theirs = sign * one[value], sign * two[value]
    sooner = (one[step] < two[step]) | ((one[step] == two[step]) & (one[attempt] < two[attempt]))
    better: Mask = (mine < theirs) | ((mine == theirs) & sooner) | (np.isnan(theirs) & ~np.isnan(mine))
    return better


def extremes(found: Iterable[tuple[int, Samples]]) -> tuple[Extreme | None, Extreme | None]:
    """(least, greatest) of pieces of points, each of one attempt."""
    least: Extreme | None = None
    greatest: Extreme | None = None
    for attempt, samples in found:
        real = ~np.isnan(samples.values)
        if not bool(real.any()):
            continue
        values, steps = samples.values[real], samples.steps[real]
        low, high = values.min(), values.max()
        one = Extreme(float(low), int(steps[values == low].min()), attempt)
        two = Extreme(float(high), int(steps[values == high].min()), attempt)
        least = one if least is None else min(least, one)
        greatest = two if greatest is None else min(greatest, two, key=lambda e: (-e.value, e.step, e.attempt))
    return least, greatest
