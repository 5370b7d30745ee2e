"""A Gaussian process over mixed and conditional spaces.

Matérn 5/2 over a sum of squared distances, one length for each parameter (Rasmussen & Williams 2006). A categorical
parameter is 0 or 1 apart (half the squared distance of its one-hot vectors, so the kernel stays positive definite). A
parameter that is not active lies in the middle of its range: two points without it are 0 apart in it, and how far with
is from without is what its parent says. Lengths have a prior that grows with the root of the dimension (Hvarfner et
al. 2024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, lapack, solve_triangular
from scipy.optimize import minimize

from incl_hpo.search.parameters import Array

_ROOT5 = 5.0**0.5
_JITTERS = (1e-9, 1e-7, 1e-5, 1e-3, 1e-1)
_FLOOR = 1e-6
"""The least noise, as a share of the variance of the values."""


@dataclass(frozen=True, slots=True)
class Prior:
    """Of the logarithms: lengths (of a unit range; the root of the dimension comes to it), variance, noise."""

    length: float = -1.0
    length_deviation: float = 1.0
    variance_deviation: float = 0.7
    noise: float = -8.0
    noise_deviation: float = 2.0


@dataclass(frozen=True, slots=True)
class Hyper:
    """The logarithms of what was fitted: (d,) lengths, the variance, the noise's variance."""

    lengths: Array
    variance: float
    noise: float


def filled(units: Array, categorical: NDArray[np.bool_]) -> Array:
    """(n, d) rows without NaN: what is not active lies in the middle, or is a choice that there is not."""
    return np.where(np.isnan(units), np.where(categorical, -1.0, 0.5), units)


Pairs: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64]]


def distances(x: Array, categorical: NDArray[np.bool_], pairs: Pairs) -> Array:
    """(d, pairs) squared distances between rows, in each parameter."""
    columns = np.ascontiguousarray(x.T)
    apart = columns[:, pairs[0]] - columns[:, pairs[1]]
    square = apart * apart
    if categorical.any():
        square[categorical] = (np.abs(apart[categorical]) > 0.5).astype(np.float64)
    return square


def cholesky(matrix: Array) -> Array:
    """The lower factor; a matrix that is singular to the machine gets as little more on its diagonal as it needs."""
    level = float(np.trace(matrix)) / len(matrix)
    for jitter in (0.0, *_JITTERS):
        tried = matrix.copy()
        tried.flat[:: len(matrix) + 1] += jitter * level
        factor, bad = lapack.dpotrf(tried.T, lower=1, clean=1, overwrite_a=1)
        if not bad and math.isfinite(float(factor.sum())):
            return np.asarray(factor)
    return np.eye(len(matrix)) * math.sqrt(max(level, 1.0))


def _inverse(factor: Array) -> Array:
    """Of the matrix that a lower factor belongs to."""
    lower, _ = lapack.dpotri(factor, lower=1)
    return np.asarray(np.tril(lower) + np.tril(lower, -1).T)


def fit(x: Array, y: Array, categorical: NDArray[np.bool_], prior: Prior, steps: int) -> Hyper:
    """The hyper-parameters of the greatest posterior for (n, d) filled rows and (n,) standardised values."""
    d = x.shape[1]
    pairs = np.tril_indices(len(x), -1)
    square = distances(x, categorical, pairs)
    middle = np.concatenate([np.full(d, prior.length + 0.5 * np.log(d)), [0.0, prior.noise]])
    width = np.concatenate([np.full(d, prior.length_deviation), [prior.variance_deviation, prior.noise_deviation]])
    bounds = [(-4.6, 4.6)] * d + [(-3.0, 3.0), (float(np.log(_FLOOR)), 0.0)]

    def loss(theta: Array) -> tuple[float, Array]:
        value, slope = _likelihood(theta, square, pairs, y)
        off = (theta - middle) / width
        return value + 0.5 * float(off @ off), slope + off / width

    found = minimize(
        loss, middle, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps, "maxfun": 2 * steps}
    )
    best = np.asarray(found.x)
    if not np.isfinite(best).all():
        best = middle
    return Hyper(best[:d], float(best[d]), float(best[d + 1]))


def _likelihood(theta: Array, square: Array, pairs: Pairs, y: Array) -> tuple[float, Array]:
    """The negative log likelihood, and its slope."""
    n, d = len(y), len(square)
    weights = np.exp(-2.0 * theta[:d])
    variance, noise = math.exp(theta[d]), math.exp(theta[d + 1])
    r = np.sqrt(weights @ square) * _ROOT5
    fall = np.exp(-r)
    across = variance * (1.0 + r + r * r / 3.0) * fall
    full = np.zeros((n, n))
    full[pairs] = across
    full[pairs[1], pairs[0]] = across
    full.flat[:: n + 1] = variance + noise
    factor = cholesky(full)
    inverse = _inverse(factor)
    alpha = inverse @ y
    pull = alpha[pairs[0]] * alpha[pairs[1]] - inverse[pairs]
    on_diagonal = float(alpha @ alpha - np.trace(inverse))
    steep = square @ (pull * (variance * 5.0 / 3.0) * (1.0 + r) * fall)
    by_variance = -float(pull @ across) - 0.5 * variance * on_diagonal
    slope = np.concatenate([-steep * weights, [by_variance, -0.5 * noise * on_diagonal]])
    value = 0.5 * float(y @ alpha) + float(np.log(np.diag(factor)).sum())
    return value, slope


class Process:
    """A fitted process: what it expects anywhere, and how sure it is.

    `believed`: (p, d) rows of trials that run. They enter with the values that are expected there, so they change no
    expectation, but nothing is left to be learned where they are (kriging believer, Ginsbourger et al. 2010).
    """

    def __init__(
        self, x: Array, y: Array, categorical: NDArray[np.bool_], hyper: Hyper, believed: Array | None = None
    ) -> None:
        self._categorical = categorical
        self._weights = np.exp(-2.0 * hyper.lengths)
        self._variance = float(np.exp(hyper.variance))
        self._noise = float(np.exp(hyper.noise))
        self._x = x
        kernel = self._kernel(x, x)
        kernel.flat[:: len(x) + 1] += self._noise
        self._factor = cholesky(kernel)
        ones, solved = cho_solve((self._factor, True), np.stack([np.ones(len(y)), y], axis=1), check_finite=False).T
        self._level = float(solved.sum() / (ones.sum() + 1.0))
        self._alpha = solved - self._level * ones
        if believed is not None and len(believed):
            self._believe(believed)
        self._inverse = _inverse(self._factor)

    def _believe(self, rows: Array) -> None:
        """More rows in the factor; the weights of the values stay, as the rows bring what is expected of them."""
        n, p = len(self._x), len(rows)
        beside = solve_triangular(self._factor, self._kernel(self._x, rows), lower=True, check_finite=False)
        own = self._kernel(rows, rows)
        own.flat[:: p + 1] += self._noise
        factor = np.zeros((n + p, n + p), order="F")
        factor[:n, :n], factor[n:, :n] = self._factor, beside.T
        factor[n:, n:] = cholesky(own - beside.T @ beside)
        self._factor, self._x = factor, np.concatenate([self._x, rows])
        self._alpha = np.concatenate([self._alpha, np.zeros(p)])

    def _kernel(self, a: Array, b: Array) -> Array:
        r = np.sqrt(self._squares(a, b)) * _ROOT5
        return np.asarray(self._variance * (1.0 + r + r * r / 3.0) * np.exp(-r))

    def _squares(self, a: Array, b: Array) -> Array:
        ordered = ~self._categorical
        scale = np.sqrt(self._weights[ordered])
        left, right = a[:, ordered] * scale, b[:, ordered] * scale
        total = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None, :] - 2.0 * left @ right.T
        for column in np.flatnonzero(self._categorical):
            total += self._weights[column] * (np.abs(a[:, column, None] - b[None, :, column]) > 0.5)
        return np.asarray(np.maximum(total, 0.0))

    @property
    def rows(self) -> Array:
        """(n + p, d) what it knows, believed ones last."""
        return self._x

    def predict(self, rows: Array) -> tuple[Array, Array]:
        """(k,) means and (k,) deviations, without the noise, at (k, d) filled rows."""
        across = self._kernel(self._x, rows)
        mean = self._level + self._alpha @ across
        seen = solve_triangular(self._factor, across, lower=True, check_finite=False)
        rest = self._variance - np.einsum("ij,ij->j", seen, seen)
        return np.asarray(mean), np.sqrt(np.maximum(rest, 1e-12 * self._variance))

    def slope(self, row: Array) -> tuple[float, float, Array, Array]:
        """Mean, deviation, and their (d,) slopes, at one filled row; 0 in categorical parameters."""
        apart = row[None, :] - self._x
        apart[:, self._categorical] = np.abs(apart[:, self._categorical]) > 0.5
        r = np.sqrt((apart * apart) @ self._weights)
        fall = np.exp(-_ROOT5 * r) * self._variance
        across = (1.0 + _ROOT5 * r + 5.0 / 3.0 * r * r) * fall
        steep = (-5.0 / 3.0 * (1.0 + _ROOT5 * r) * fall)[:, None] * apart * self._weights
        steep[:, self._categorical] = 0.0
        solved = self._inverse @ across
        rest = max(self._variance - float(across @ solved), 1e-12 * self._variance)
        deviation = float(np.sqrt(rest))
        return (
            self._level + float(self._alpha @ across),
            deviation,
            self._alpha @ steep,
            -(solved @ steep) / deviation,
        )
