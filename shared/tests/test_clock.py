"""A clock that no setting moves."""

from __future__ import annotations

from incl_shared.clock import SteadyClock


class _Set:
    """A clock that somebody sets."""

    def __init__(self) -> None:
        self.ahead, self.passed = 1_000_000.0, 5.0

    def now(self) -> float:
        return self.ahead + self.passed

    def monotonic(self) -> float:
        return self.passed


def test_a_clock_that_is_set_moves_no_steady_one() -> None:
    clock = _Set()
    steady = SteadyClock(clock)
    assert steady.now() == 1_000_005.0
    clock.ahead -= 3600.0
    clock.passed += 2.0
    assert (steady.now(), steady.monotonic()) == (1_000_007.0, 7.0)
