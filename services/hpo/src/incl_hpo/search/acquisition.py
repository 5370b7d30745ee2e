"""How much a place promises: expected improvement, and the chance that the trial works.

Expected improvement (Jones et al. 1998) in its logarithm, which has a slope where the improvement itself is 0 to the
machine (LogEI, Ament et al. 2023), times the probability of feasibility (Schonlau et al. 1998, Gardner et al. 2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import erfcx, log_ndtr

from incl_hpo.search.gaussian import Process
from incl_hpo.search.parameters import Array

_LOG_ROOT_2PI = 0.5 * np.log(2.0 * np.pi)


def log_density(z: Array) -> Array:
    """The logarithm of the standard normal density."""
    return np.asarray(-0.5 * z * z - _LOG_ROOT_2PI)


def log_improvement(z: Array) -> Array:
    """log(density(z) + z * distribution(z)), for any z."""
    z = np.asarray(z, dtype=np.float64)
    near, far = np.maximum(z, -1.0), np.clip(z, -1e3, -1.0)
    plain = np.log(np.exp(log_density(near)) + near * np.exp(log_ndtr(near)))
    tail = log_density(far) + np.log1p(far * np.sqrt(np.pi / 2.0) * erfcx(-far / np.sqrt(2.0)))
    limit = log_density(z) - 2.0 * np.log(np.maximum(-z, 1.0))
    return np.where(z > -1.0, plain, np.where(z > -1e3, tail, limit))


class Term(Protocol):
    """One part of the sum that is maximised."""

    @property
    def process(self) -> Process:
        """What says how mean and deviation are."""

    def value(self, mean: Array, deviation: Array) -> Array:
        """(k,) of means and deviations."""

    def slopes(self, mean: float, deviation: float) -> tuple[float, float]:
        """By the mean, and by the deviation."""


@dataclass(frozen=True, slots=True)
class Improvement:
    """Log of the expected improvement on `best` (lower is better)."""

    process: Process
    best: float

    def value(self, mean: Array, deviation: Array) -> Array:
        return np.log(deviation) + log_improvement((self.best - mean) / deviation)

    def slopes(self, mean: float, deviation: float) -> tuple[float, float]:
        z = np.asarray((self.best - mean) / deviation)
        below = float(log_improvement(z))
        by_mean = -np.exp(min(float(log_ndtr(z)) - below, 50.0)) / deviation
        by_deviation = np.exp(min(float(log_density(z)) - below, 50.0)) / deviation
        return float(by_mean), float(by_deviation)


@dataclass(frozen=True, slots=True)
class Below:
    """Log of the chance that a value is below `limit`."""

    process: Process
    limit: float
    extra: float = 0.0
    """Added to the deviation: how far the labels themselves are to be believed."""

    def value(self, mean: Array, deviation: Array) -> Array:
        return np.asarray(log_ndtr((self.limit - mean) / np.hypot(deviation, self.extra)))

    def slopes(self, mean: float, deviation: float) -> tuple[float, float]:
        whole = float(np.hypot(deviation, self.extra))
        z = np.asarray((self.limit - mean) / whole)
        rate = float(np.exp(min(float(log_density(z) - log_ndtr(z)), 50.0)))
        return -rate / whole, -rate * float(z) / whole * (deviation / whole)


class Acquisition:
    """The sum of terms, at rows of filled units."""

    def __init__(self, terms: Sequence[Term]) -> None:
        self._terms = tuple(terms)

    def __call__(self, rows: Array) -> Array:
        """(k,) at (k, d) filled rows."""
        total = np.zeros(len(rows))
        for term in self._terms:
            total += term.value(*term.process.predict(rows))
        return np.nan_to_num(total, nan=-1e300, neginf=-1e300)

    def with_slope(self, row: Array) -> tuple[float, Array]:
        """The value at one row, and its (d,) slope."""
        total, slope = 0.0, np.zeros(len(row))
        for term in self._terms:
            mean, deviation, by_mean, by_deviation = term.process.slope(row)
            total += float(term.value(np.asarray([mean]), np.asarray([deviation]))[0])
            a, b = term.slopes(mean, deviation)
            slope += a * by_mean + b * by_deviation
        return total, slope
