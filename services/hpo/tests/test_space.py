"""Spaces: what is refused, and the way from values to units and back."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from incl_hpo.search import Categorical, Float, Integer, PointError, Space, SpaceError, SpaceExhaustedError
from incl_hpo.testing import SPACES, spread

X = Float("x", 0.0, 1.0)
A = Categorical("a", ("u", "v"))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Space(()), "no parameters"),
        (lambda: Space((X, X)), "stands twice"),
        (lambda: Float("x", 1.0, 0.0), "no range"),
        (lambda: Float("x", 0.0, math.inf), "no range"),
        (lambda: Float("x", math.nan, 1.0), "no range"),
        (lambda: Float("x", -1.7e308, 1.7e308), "no range"),
        (lambda: Float("x", 0.0, 1.0, log=True), "log range begins at 0"),
        (lambda: Float("x", 0.0, 1.0, step=0.0), "step of 0"),
        (lambda: Float("x", 0.1, 1.0, log=True, step=0.1), "step of 0.1"),
        (lambda: Float("x", 0.0, 1e300, step=1e-300), "too fine"),
        (lambda: Integer("x", 0, 9, log=True), "log range begins at 0"),
        (lambda: Integer("x", 3, 2), "no range"),
        (lambda: Integer("x", 0, 2, step=0), "step of 0"),
        (lambda: Categorical("x", ()), "no choices"),
        (lambda: Categorical("x", ("a", "a")), "stands twice"),
        (lambda: Space((X, Float("y", 0, 1, when={"z": [1]}))), "depends on z"),
        (lambda: Space((A, Float("y", 0, 1, when={"a": ["w"]}))), "never is"),
        (lambda: Space((A, Float("y", 0, 1, when={"a": []}))), "never is"),
        (lambda: Space((X, Float("y", 0, 1, when={"x": [2.0]}))), "never is"),
        (lambda: Space((Integer("p", 0, 1, when={"q": [1]}), Integer("q", 0, 1, when={"p": [1]}))), "circle"),
    ],
)
def test_what_is_no_space_is_refused(make: Any, why: str) -> None:
    with pytest.raises(SpaceError, match=why) as caught:
        make()
    assert caught.value.hint or why == "no parameters"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("name", sorted(SPACES))
def test_points_come_back_from_their_rows(name: str) -> None:
    space = SPACES[name]
    points = spread(space, 200)
    rows = space.encode(points)
    for point, row in zip(points, rows, strict=True):
        again = space.decode(row)
        assert list(again) == list(point)
        assert again == pytest.approx(point) if name != "choices" else again["a"] == point["a"]
    assert np.array_equal(np.isnan(space.snap(np.nan_to_num(rows))), np.isnan(rows))


@given(
    st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.floats(0, 1), st.booleans(), st.one_of(st.none(), st.floats(0.01, 1))
)
def test_a_number_stays_in_its_range(low: float, width: float, unit: float, log: bool, share: float | None) -> None:
    low = abs(low) + 1e-3 if log else low
    one = Float("x", low, low + width, log=log, step=None if log or share is None else width * share)
    value = one.value(float(one.snap(np.asarray([unit]))[0]))
    assert one.low <= value <= one.high
    (back,) = one.to_units([value])
    assert one.value(float(back)) == pytest.approx(value, rel=1e-9, abs=1e-9)


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.floats(0, 1), st.booleans(), st.integers(1, 7))
def test_a_whole_number_comes_back_exactly(low: int, width: int, unit: float, log: bool, step: int) -> None:
    one = Integer("n", low, low + width, log=log, step=1 if log else step)
    value = one.value(float(one.snap(np.asarray([unit]))[0]))
    assert one.low <= value <= one.high
    assert (value - low) % one.step == 0
    assert one.value(float(one.to_units([value])[0])) == value


def test_choices_that_python_takes_for_equal_are_told_apart() -> None:
    one = Categorical("a", (1, True, 1.0, "1", None, 0, False))
    assert list(one.to_units(one.choices)) == list(range(7))
    assert [type(one.value(unit)) for unit in range(7)] == [int, bool, float, str, type(None), int, bool]


def test_children_may_be_named_before_their_parents() -> None:
    space = Space((Float("y", 0, 1, when={"a": ["u"]}), A))
    assert [parameter.name for parameter in space.parameters] == ["a", "y"]


def test_the_grid_of_a_conditional_space_has_every_point_once() -> None:
    space = Space(
        (
            A,
            Integer("k", 1, 3, when={"a": ["u"]}),
            Float("q", 0, 1, step=0.25, when={"k": [2, 3]}),
            Integer("n", 1, 4, log=True),
        )
    )
    points = [space.decode(row) for row in space.grid()]
    assert space.size == len(points) == len({repr(point) for point in points}) == (1 + 1 + 2 * 5) * 4
    for point in points:
        space.check(point)


def test_a_space_too_large_to_count_has_no_size_and_a_grid_with_an_end() -> None:
    space = Space(tuple(Integer(f"n{k}", 0, 99) for k in range(6)))
    assert space.size is None
    assert len(space.grid(limit=1000)) == 1000
    assert Space((X,)).size is None


@pytest.mark.parametrize(
    "point", [{}, {"a": "u"}, {"a": "w", "y": 0.5}, {"a": "u", "y": 7.0}, {"a": "v", "y": 0.5}, {"a": "v", "z": 1}]
)
def test_what_is_no_point_is_refused(point: dict[str, Any]) -> None:
    space = Space((A, Float("y", 0, 1, when={"a": ["u"]})))
    with pytest.raises(PointError):
        space.check(point)


def test_errors_name_the_next_step() -> None:
    assert str(SpaceExhaustedError("all tried", "widen it")) == "all tried (widen it)"
