"""Time as a port, so that the domain never reads it by itself."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the services know of time."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean something."""
        ...


class SteadyClock:
    """The time of another clock when this was made, and what has passed since: no setting of the clock moves it.

    For times that are compared within one process; what another one wrote may be off by whatever its clock was.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead = clock.now() - clock.monotonic()

    def now(self) -> float:
        """Seconds since the epoch, UTC, as far as the clock was right then."""
        return self._ahead + self._clock.monotonic()

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return self._clock.monotonic()


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment in the past."""
        return time.monotonic()
