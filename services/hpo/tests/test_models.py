"""The parts of the model: slopes against differences, believers, singular matrices, tails, warping."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import approx_fprime
from scipy.stats import norm

from incl_hpo.search import gaussian
from incl_hpo.search.acquisition import Acquisition, Below, Improvement, Term, log_improvement
from incl_hpo.search.gaussian import Hyper, Prior, Process, fit
from incl_hpo.search.objectives import pareto, scalarise
from incl_hpo.search.parameters import Array
from incl_hpo.search.warping import warp, yeo_johnson

CATEGORICAL = np.asarray([False, False, True])
RNG = np.random.default_rng(0)
X = np.column_stack([RNG.random((15, 2)), RNG.integers(0, 3, 15)])
Y = RNG.standard_normal(15)
HYPER = Hyper(np.asarray([-0.5, 0.3, 0.1]), 0.2, -3.0)


def test_the_slope_of_the_likelihood() -> None:
    pairs = np.tril_indices(15, -1)
    square = gaussian.distances(X, CATEGORICAL, pairs)
    theta = np.asarray([-0.5, 0.3, 0.1, 0.2, -3.0])
    _, slope = gaussian._likelihood(theta, square, pairs, Y)
    near = approx_fprime(theta, lambda at: gaussian._likelihood(at, square, pairs, Y)[0], 1e-6)
    assert slope == pytest.approx(near, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("kind", ["improvement", "far", "below"])
def test_the_slope_of_the_acquisition(kind: str) -> None:
    process = Process(X, Y, CATEGORICAL, HYPER)
    terms: dict[str, Term] = {
        "improvement": Improvement(process, -1.0),
        "far": Improvement(process, -9.0),
        "below": Below(process, 0.2, 0.3),
    }
    one = Acquisition([terms[kind]])
    row = np.asarray([0.3, 0.6, 1.0])
    value, slope = one.with_slope(row)
    assert value == pytest.approx(one(row[None, :])[0])
    assert slope == pytest.approx(approx_fprime(row, lambda at: one(at[None, :])[0], 1e-7), rel=1e-2, abs=1e-3)


def test_believers_take_the_doubt_away_where_they_are_and_change_no_expectation() -> None:
    believed = np.column_stack([RNG.random((4, 2)), np.ones(4)])
    alone, among = Process(X, Y, CATEGORICAL, HYPER), Process(X, Y, CATEGORICAL, HYPER, believed)
    rows = np.column_stack([RNG.random((50, 2)), np.full(50, 2.0)])
    assert among.predict(rows)[0] == pytest.approx(alone.predict(rows)[0], abs=1e-9)
    assert (among.predict(rows)[1] <= alone.predict(rows)[1] + 1e-9).all()
    assert (among.predict(believed)[1] < 0.9 * alone.predict(believed)[1]).all()


def test_a_smooth_function_is_learned_and_what_does_not_matter_is_seen() -> None:
    x = np.random.default_rng(1).random((40, 3))
    y = warp(np.sin(6 * x[:, 0]) + x[:, 1])
    none = np.zeros(3, dtype=bool)
    hyper = fit(x[:30], y[:30], none, Prior(), 40)
    mean, _ = Process(x[:30], y[:30], none, hyper).predict(x[30:])
    assert np.abs(mean - y[30:]).max() < 0.3
    assert hyper.lengths[2] > hyper.lengths[0] + 1.0


@pytest.mark.parametrize("rows", [np.zeros((50, 3)), np.repeat(X, 20, axis=0)], ids=["all equal", "each 20 times"])
def test_a_singular_matrix_is_no_end(rows: Array) -> None:
    y = np.resize(Y, len(rows))
    hyper = fit(rows, y, CATEGORICAL, Prior(noise=-14.0), 10)
    bare = Hyper(hyper.lengths, hyper.variance, -40.0)
    mean, deviation = Process(rows, y, CATEGORICAL, bare, rows[:10]).predict(X)
    assert np.isfinite(mean).all()
    assert np.isfinite(deviation).all()


@pytest.mark.parametrize("z", [-8.0, -5.0, -1.0001, -0.9999, 0.0, 3.0])
def test_the_log_of_the_improvement(z: float) -> None:
    exact, _ = quad(lambda t: max(z + t, 0.0) * norm.pdf(t), -z, -z + 12)
    assert float(log_improvement(np.asarray(z))) == pytest.approx(np.log(exact), rel=1e-6)


def test_the_log_of_the_improvement_falls_on_far_beyond_where_it_is_0() -> None:
    tail = log_improvement(np.asarray([-1e8, -1e5, -1001.0, -999.0, -100.0, -10.0]))
    assert np.isfinite(tail).all()
    assert (np.diff(tail) > 0).all()


def test_warping_keeps_the_order_and_bends_what_is_skewed() -> None:
    skewed = np.exp(3 * np.random.default_rng(0).standard_normal(200))
    bent = warp(skewed)
    assert (
        np.argsort(bent[skewed < np.quantile(skewed, 0.9)]) == np.argsort(skewed[skewed < np.quantile(skewed, 0.9)])
    ).all()
    assert abs(float(np.mean(bent**3))) < 0.3 * abs(float(np.mean(((skewed - skewed.mean()) / skewed.std()) ** 3)))
    assert yeo_johnson(np.asarray([-2.0, 0.0, 3.0]), 1.0) == pytest.approx([-2.0, 0.0, 3.0])


def test_a_weighing_of_objectives_is_least_on_the_pareto_front() -> None:
    values = np.random.default_rng(3).random((200, 2))
    front = pareto(values)
    for seed in range(20):
        assert front[int(np.argmin(scalarise(values, np.random.default_rng(seed))))]
